import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import postgres from 'postgres'

/** A PostgreSQL for the run: `DATABASE_URL`'s server where it is set, else an embedded one of its own. */
export async function openBenchDatabase(_dataDir: string): Promise<{
  readonly brokerUrl: string
  create(name: string): Promise<string>
  close(): Promise<void>
}> {
  const serverUrl = process.env['DATABASE_URL'] ?? ''
  const admin = postgres(serverUrl, { max: 1, onnotice: () => {} })
  const created: string[] = []
  const create = async (name: string): Promise<string> => {
    const unique = `${name}_${randomUUID().slice(0, 8)}`
    await admin.unsafe(`CREATE DATABASE "${unique}"`)
    created.push(unique)
    const url = new URL(serverUrl)
    url.pathname = `/${unique}`
    return url.href
  }
  const brokerUrl = await create('onbehalf')
  const { readdir, readFile } = await import('node:fs/promises')
  const sql = postgres(brokerUrl, { max: 1, onnotice: () => {} })
  const dir = join(import.meta.dirname, '../migrations')
  for (const file of (await readdir(dir)).filter((f) => f.endsWith('.sql')).sort()) {
    await sql.unsafe(await readFile(join(dir, file), 'utf8'))
  }
  await sql.end()
  return {
    brokerUrl,
    create,
    async close() {
      for (const name of created)
        await admin.unsafe(`DROP DATABASE IF EXISTS "${name}" WITH (FORCE)`)
      await admin.end()
    },
  }
}
