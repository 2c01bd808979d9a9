import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Sql } from 'postgres'
import { canaryPrefixes } from '../../support/secret-scan.ts'

/**
 * The beginnings of all secrets of these scenarios, in clear, hex and base64 at each of its three offsets. Looked for by native code: the harness is
 * the server, the wires and all callers of the scenarios that run beside this one, and must not stand still.
 */
const needles = [
  canaryPrefixes.accessToken,
  canaryPrefixes.refreshToken,
  canaryPrefixes.clientSecret,
].flatMap((prefix) => [
  prefix,
  Buffer.from(prefix).toString('hex'),
  ...[0, 1, 2].map((offset) => {
    const encoded = Buffer.concat([Buffer.alloc(offset), Buffer.from(prefix)]).toString('base64')
    const end = Math.floor((offset + prefix.length) / 3) * 4
    return encoded.slice([0, 2, 3][offset], end)
  }),
])

/** The files below a directory that hold a secret. */
export async function leakingFiles(directory: string): Promise<readonly string[]> {
  const entries = await readdir(directory, { recursive: true, withFileTypes: true })
  const leaking: string[] = []
  for (const entry of entries.filter((one) => one.isFile())) {
    const bytes = await readFile(join(entry.parentPath, entry.name))
    if (needles.some((needle) => bytes.includes(needle))) leaking.push(entry.name)
  }
  return leaking
}

/** How many records hold a secret. They are removed, so that what looks through every cell afterwards has little to do. */
export async function leakingRecords(sql: Sql): Promise<number> {
  const patterns = needles.map((needle) => `%${needle}%`)
  const [found] = await sql<[{ count: number }]>`
    SELECT count(*)::int AS count FROM activity WHERE activity::text LIKE ANY (${sql.array(patterns)}::text[])`
  await sql`TRUNCATE activity`
  return found.count
}
