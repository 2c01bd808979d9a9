import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { describe, expect, it } from 'vitest'

/**
 * The shape of the house (docs/architecture.md): a star. A room imports `core` and itself, and what this table names besides;
 * a package is named in the rooms listed for it.
 */
const alsoImports: Readonly<Record<string, readonly string[]>> = {
  core: [],
  acquisition: ['oauth'],
  audit: [],
  cli: ['oauth'],
  config: [],
  demo: [],
  gateway: [],
  http: [],
  identity: ['oauth'],
  metrics: [],
  oauth: [],
  outbound: [],
  pages: [],
  sealing: [],
  storage: [],
}

const packageRooms: Readonly<Record<string, readonly string[]>> = {
  '@hono/node-server': ['http'],
  '@hono/zod-openapi': ['http'],
  '@modelcontextprotocol/client': ['demo'],
  '@modelcontextprotocol/node': ['demo'],
  '@modelcontextprotocol/server': ['demo'],
  'drizzle-orm': ['storage'],
  'fastest-levenshtein': ['config', 'cli'],
  hono: ['http', 'pages'],
  'ipaddr.js': ['outbound'],
  jose: ['identity', 'oauth', 'demo'],
  'lru-cache': ['core', 'gateway', 'identity'],
  oauth4webapi: ['oauth', 'identity'],
  'oidc-provider': ['demo'],
  'p-limit': ['core', 'identity'],
  pino: ['log.ts'],
  postgres: ['storage'],
  'prom-client': ['metrics'],
  undici: ['outbound'],
  yaml: ['config'],
  zod: ['config', 'oauth', 'demo', 'cli', 'storage'],
}

/** Files that belong to no room: the edge, the library's face, the log. */
const rootFiles = [
  'broker.ts',
  'garbage-collection.ts',
  'index.ts',
  'log.ts',
  'main.ts',
  'version.ts',
]

/** The only folder that knows every room. */
const wiring = 'wiring'

type Import = { readonly from: string; readonly to: string; readonly typeOnly: boolean }

const src = resolve(import.meta.dirname, '../src')
const files = readdirSync(src, { recursive: true, encoding: 'utf8' }).filter((file) =>
  file.endsWith('.ts'),
)
const imports = files.flatMap(importsOf)

function importsOf(file: string): Import[] {
  const text = readFileSync(join(src, file), 'utf8')
  const statements = text.matchAll(
    /^(?:import|export)\s+(type\s)?(?:[^'"]*?\sfrom\s+)?'([^']+)'|\bimport\('([^']+)'\)/gms,
  )
  return [...statements].map((statement) => ({
    from: file,
    to: String(statement[2] ?? statement[3]),
    typeOnly: statement[1] !== undefined,
  }))
}

function roomOf(file: string): string {
  const [first, ...rest] = file.split('/')
  return rest.length === 0 ? file : String(first)
}

function targetOf(from: string, to: string): string {
  return relative(src, resolve(src, dirname(from), to))
}

describe('the star', () => {
  const ours = imports.filter(({ to }) => to.startsWith('.'))

  it('finds the imports it judges', () => {
    expect(files.length).toBeGreaterThan(30)
    expect(ours.length).toBeGreaterThan(100)
    expect(
      files
        .map(roomOf)
        .filter((room) => !(room in alsoImports) && room !== wiring && !rootFiles.includes(room)),
    ).toEqual([])
  })

  it('has rooms that import core, themselves and what the table allows', () => {
    const arrows = ours
      .map(({ from, to }) => ({ from, room: roomOf(from), target: roomOf(targetOf(from, to)) }))
      .filter(({ room }) => room !== wiring && !rootFiles.includes(room))
      .filter(({ room, target }) => {
        const allowed = [room, 'core', ...(alsoImports[room] ?? [])]
        return room === 'core' ? target !== 'core' : !allowed.includes(target)
      })
    expect(arrows).toEqual([])
  })

  it('has no cycle, types included', () => {
    const edges = new Map<string, string[]>()
    for (const { from, to } of ours) {
      edges.set(from, [...(edges.get(from) ?? []), targetOf(from, to)])
    }
    const done = new Set<string>()
    const path: string[] = []
    const cycles: string[] = []
    function walk(file: string): void {
      if (path.includes(file)) cycles.push([...path.slice(path.indexOf(file)), file].join(' → '))
      if (done.has(file) || path.includes(file)) return
      path.push(file)
      for (const next of edges.get(file) ?? []) walk(next)
      path.pop()
      done.add(file)
    }
    for (const file of files) walk(file)
    expect(cycles).toEqual([])
  })

  it('names a package only in its rooms', () => {
    const foreign = imports
      .filter(({ to }) => !to.startsWith('.') && !to.startsWith('node:'))
      .map(({ from, to }) => ({ from, name: packageName(to) }))
      .filter(({ from, name }) => !(packageRooms[name] ?? []).includes(roomOf(from)))
    expect(foreign).toEqual([])
  })

  it('reads the environment at the edge only', () => {
    const readers = files.filter((file) =>
      /\bprocess\.env\b/.test(readFileSync(join(src, file), 'utf8')),
    )
    expect(readers.filter((file) => file !== 'main.ts')).toEqual([])
  })
})

function packageName(specifier: string): string {
  const parts = specifier.split('/')
  return specifier.startsWith('@') ? parts.slice(0, 2).join('/') : String(parts[0])
}
