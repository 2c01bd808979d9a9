import { execFileSync, spawn } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { findTestPort } from './test-port.ts'

const program = findProgram()

export const hasNginx = program !== undefined

/**
 * A real nginx on the recipe of `examples/nginx` as it stands, for one upstream: its addresses, the name and the service key are
 * put in the place of those in the file.
 */
export async function startNginx(options: {
  readonly name: string
  readonly onbehalf: string
  readonly upstream: string
  readonly serviceKey: string
  readonly port?: number
}): Promise<{ readonly url: string; readonly stop: () => Promise<void> }> {
  const { name, port = await findTestPort() } = options
  const directory = await mkdtemp(join(tmpdir(), 'onbehalf-nginx-'))
  const file = join(directory, 'nginx.conf')
  const recipe = await recipeWith({
    '127.0.0.1:8080': new URL(options.onbehalf).host,
    'listen 8443;': `listen 127.0.0.1:${port};`,
    'https://files.example.com/': `${options.upstream}/`,
    'the-service-key-of-nginx-0123456789': options.serviceKey,
    '/ext-authz/files': `/ext-authz/${name}`,
    'location /files/': `location /${name}/`,
    'oauth-protected-resource/files': `oauth-protected-resource/${name}`,
  })
  await writeFile(file, mainFile(directory, recipe))
  const child = spawn(String(program), ['-p', directory, '-c', file], {
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const said: string[] = []
  child.stderr.on('data', (chunk) => said.push(String(chunk)))
  const ended = new Promise<void>((resolve) => {
    child.on('exit', () => resolve())
  })
  const url = `http://127.0.0.1:${port}`
  while (!(await answers(url))) {
    if (child.exitCode !== null) throw new Error(`nginx ended: ${said.join('')}`)
    await sleep(50)
  }
  return {
    url,
    async stop() {
      child.kill('SIGTERM')
      await ended
      await rm(directory, { recursive: true, force: true })
    },
  }
}

async function recipeWith(changes: Readonly<Record<string, string>>): Promise<string> {
  let recipe = await readFile(
    new URL('../../examples/nginx/onbehalf.conf', import.meta.url),
    'utf8',
  )
  for (const [from, to] of Object.entries(changes)) {
    if (!recipe.includes(from)) throw new Error(`the recipe has no ${from}`)
    recipe = recipe.replaceAll(from, to)
  }
  return recipe
}

function mainFile(directory: string, recipe: string): string {
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((kind) => `${kind}_temp_path ${directory}/${kind};`)
    .join(' ')
  const user = process.getuid?.() === 0 ? 'user root;' : ''
  return `daemon off; ${user} pid ${directory}/pid; error_log ${directory}/error.log;
    events {} http { access_log off; ${temporary} ${recipe} }`
}

async function answers(url: string): Promise<boolean> {
  return fetch(url).then(
    () => true,
    () => false,
  )
}

function findProgram(): string | undefined {
  const directories = [...(process.env['PATH'] ?? '').split(':'), '/usr/sbin']
  return directories
    .map((directory) => join(directory, 'nginx'))
    .find((path) => {
      try {
        execFileSync(path, ['-v'], { stdio: 'ignore' })
        return true
      } catch {
        return false
      }
    })
}
