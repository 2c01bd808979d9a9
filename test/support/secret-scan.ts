import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Sql } from 'postgres'

/** One prefix a class of secrets (reference: security 0.1), so that one which nobody registered is found, too. */
export const canaryPrefixes = {
  inbound: 'CNRY-IN-',
  accessToken: 'CNRY-AT-',
  refreshToken: 'CNRY-RT-',
  code: 'CNRY-CODE-',
  verifier: 'CNRY-VERIF-',
  clientSecret: 'CNRY-CS-',
  encryptionKey: 'CNRY-KEK-',
} as const

export type SecretFinding = {
  /** Where it was found, such as `table activity, column reason`. */
  readonly where: string
  /** What kind of secret; never its value. */
  readonly kind: string
  readonly form: SecretForm
}

export type SecretForm = 'raw' | 'base64' | 'base64url' | 'hex' | 'url' | 'json'

export type SecretScan = {
  /** Remembers a secret to look for. Takes 8 bytes or more: shorter ones would be found by chance. */
  readonly register: (kind: string, value: string | Uint8Array) => void
  /** How many were registered. */
  readonly size: () => number
  /** Looks through a text or bytes for all of them, in every form, also inside a longer encoded text. */
  readonly find: (where: string, what: string | Uint8Array) => readonly SecretFinding[]
}

type Needle = { readonly text: string; readonly kind: string; readonly form: SecretForm }

const headLength = 8

export function createSecretScan(): SecretScan {
  const needlesByHead = new Map<string, Map<string, Needle>>()
  const registered = new Set<string>()

  function addNeedle(needle: Needle): void {
    if (needle.text.length < headLength) return
    const head = needle.text.slice(0, headLength)
    const needles = needlesByHead.get(head) ?? new Map<string, Needle>()
    if (!needles.has(needle.text)) needles.set(needle.text, needle)
    needlesByHead.set(head, needles)
  }

  function register(kind: string, value: string | Uint8Array): void {
    const bytes = Buffer.from(value)
    if (bytes.length < headLength) throw new Error(`a ${kind} is too short to be looked for`)
    if (registered.has(bytes.toString('latin1'))) return
    registered.add(bytes.toString('latin1'))
    for (const [form, text] of formsOf(bytes)) addNeedle({ kind, form, text })
  }

  function findIn(where: string, haystack: string): readonly SecretFinding[] {
    const found = new Map<string, SecretFinding>()
    for (let at = 0; at + headLength <= haystack.length; at += 1) {
      const needles = needlesByHead.get(haystack.slice(at, at + headLength))
      for (const { text, kind, form } of needles?.values() ?? []) {
        if (haystack.startsWith(text, at)) found.set(`${kind} ${form}`, { where, kind, form })
      }
    }
    return [...found.values()]
  }

  for (const prefix of Object.values(canaryPrefixes)) register(`${prefix}…`, prefix)
  return {
    register,
    size: () => registered.size - Object.keys(canaryPrefixes).length,
    find(where, what) {
      const haystack = Buffer.from(what).toString('latin1')
      const found = findIn(where, haystack)
      // PostgreSQL and MIME break long base64 lines.
      return /[\r\n]/.test(haystack)
        ? [...found, ...findIn(where, haystack.replace(/[\r\n]/g, ''))]
        : found
    },
  }
}

function formsOf(bytes: Buffer): readonly (readonly [SecretForm, string])[] {
  const text = bytes.toString('latin1')
  const utf8 = bytes.toString('utf8')
  const hex = bytes.toString('hex')
  const embedded = [0, 1, 2].map((offset) => base64Inside(bytes, offset))
  return [
    ['raw', text],
    ['hex', hex],
    ['hex', hex.toUpperCase()],
    ['url', encodeURIComponent(utf8.isWellFormed() ? utf8 : '')],
    ['json', Buffer.from(JSON.stringify(utf8).slice(1, -1)).toString('latin1')],
    ...embedded.map((part) => ['base64', part] as const),
    ...embedded.map(
      (part) => ['base64url', part.replaceAll('+', '-').replaceAll('/', '_')] as const,
    ),
  ]
}

/** The part of a base64 text that is the same whatever stands before and after, for bytes at one of three offsets. */
function base64Inside(bytes: Buffer, offset: number): string {
  const encoded = Buffer.concat([Buffer.alloc(offset), bytes]).toString('base64')
  const start = [0, 2, 3][offset] ?? 0
  return encoded.slice(start, Math.floor((offset + bytes.length) / 3) * 4)
}

/**
 * Looks through every column of every table for the secrets, bytes as they are and as hex. Before that it plants one of its own
 * in a table in several forms and throws when it does not find it: a scan that cannot find anything is not a clean one.
 */
export async function scanDatabase(
  scan: SecretScan,
  sql: Sql,
): Promise<{ readonly findings: readonly SecretFinding[]; readonly cells: number }> {
  const control = `CONTROL-${Math.random().toString(36).slice(2)}${Math.random().toString(36).slice(2)}`
  scan.register(control, control)
  const bytes = Buffer.from(control)
  await sql`create table if not exists secret_scan_control (form text, words text, bytes bytea, document jsonb)`
  await sql`insert into secret_scan_control values
    ('raw', ${`a ${control} b`}, null, null),
    ('hex', ${bytes.toString('hex')}, null, null),
    ('base64', ${Buffer.from(`x${control}`).toString('base64')}, null, null),
    ('bytes', null, ${bytes}, null),
    ('document', null, null, ${sql.json({ inside: [control] })})`
  try {
    const { findings, cells } = await scanTables(scan, sql)
    const planted = new Set(
      findings.filter(({ kind }) => kind === control).map(({ where }) => where),
    )
    if (planted.size < 5) throw new Error('the scan did not find the secret that it had planted')
    return { findings: findings.filter(({ kind }) => kind !== control), cells }
  } finally {
    await sql`drop table secret_scan_control`
  }
}

async function scanTables(scan: SecretScan, sql: Sql) {
  const tables = await sql<{ schema: string; name: string }[]>`
    select table_schema as schema, table_name as name from information_schema.tables
    where table_type = 'BASE TABLE' and table_schema not in ('pg_catalog', 'information_schema')`
  const findings: SecretFinding[] = []
  let cells = 0
  for (const { schema, name } of tables) {
    const rows = await sql<Record<string, unknown>[]>`select * from ${sql(schema)}.${sql(name)}`
    for (const [index, row] of rows.entries()) {
      for (const [column, value] of Object.entries(row)) {
        cells += 1
        const where = `table ${name}, row ${index}, column ${column}`
        for (const form of cellForms(value)) findings.push(...scan.find(where, form))
      }
    }
  }
  return { findings, cells }
}

function cellForms(value: unknown): readonly (string | Uint8Array)[] {
  if (value === null || value === undefined) return []
  if (value instanceof Uint8Array) return [value, Buffer.from(value).toString('hex')]
  return [typeof value === 'string' ? value : JSON.stringify(value)]
}

/** Looks through every file below a directory, such as a spool. */
export async function scanDirectory(
  scan: SecretScan,
  directory: string,
): Promise<readonly SecretFinding[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true })
  const files = entries.filter((entry) => entry.isFile())
  const findings = await Promise.all(
    files.map(async (entry) => {
      const path = join(entry.parentPath, entry.name)
      // A part of the spool goes when all of it is stored.
      const bytes = await readFile(path).catch((error: NodeJS.ErrnoException) => {
        if (error.code === 'ENOENT') return Buffer.alloc(0)
        throw error
      })
      return scan.find(`file ${entry.name}`, bytes)
    }),
  )
  return findings.flat()
}
