import { execFile } from 'node:child_process'
import { mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import os from 'node:os'
import { join, resolve } from 'node:path'
import { expect, it, type TestContext } from 'vitest'

const root = resolve(import.meta.dirname, '../../..')

/** The last line of a run of vitest over one file with this text. */
async function lastLineOf(
  text: string,
  { onTestFinished }: TestContext,
): Promise<string | undefined> {
  const directory = await mkdtemp(join(os.tmpdir(), 'onbehalf-closing-line-'))
  onTestFinished(() => rm(directory, { recursive: true, force: true }))
  await symlink(join(root, 'node_modules'), join(directory, 'node_modules'))
  await writeFile(join(directory, 'package.json'), '{"type":"module"}')
  await writeFile(join(directory, 'some.test.js'), text)
  const reporter = join(root, 'test/support/closing-line.ts')
  const config = `export default { cacheDir: './cache', test: { reporters: ['default', ${JSON.stringify(reporter)}] } }`
  await writeFile(join(directory, 'vitest.config.js'), config)
  const vitest = join(root, 'node_modules/vitest/vitest.mjs')
  const args = [vitest, 'run', '--root', directory, '--configLoader', 'runner']
  return new Promise((done) => {
    const options = { cwd: directory, env: { ...process.env, CI: '1', NO_COLOR: '1' } }
    execFile(process.execPath, args, options, (_error, stdout) => {
      done(stdout.trimEnd().split('\n').at(-1))
    })
  })
}

const cases: [string, string, string][] = [
  ['passes', `it('a', () => {}); it('b', () => {})`, '2 passed, 0 failed'],
  [
    'passes with tests left out',
    `it('a', () => {}); it.skip('b', () => {})`,
    '1 passed, 0 failed, 1 skipped',
  ],
  ['fails', `it('a', () => {}); it('b', () => { throw new Error('no') })`, '1 passed, 1 failed'],
  ['cannot be read', `import './nothing.js'; it('a', () => {})`, '0 passed, 1 failed'],
  [
    'has a hook that fails',
    `beforeAll(() => { throw new Error('no') }); it('a', () => {})`,
    '0 passed, 1 failed, 1 skipped',
  ],
  [
    'leaves a rejection unhandled',
    `it('a', () => { void Promise.reject(new Error('no')) })`,
    '1 passed, 1 failed',
  ],
  ['holds no test', `void 0`, '0 passed, 1 failed'],
]

it.concurrent.for(cases)(
  'a run that %s says so in its last line, alone',
  async ([, text, line], test) => {
    const whole = `import { beforeAll, it } from 'vitest'\nvoid beforeAll\n${text}\n`
    expect(await lastLineOf(whole, test)).toBe(line)
  },
)
