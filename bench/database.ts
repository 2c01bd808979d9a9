import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import postgres from 'postgres'
import { Secret } from '../dist/core/secret.js'
import { readDatabaseAddress } from '../dist/storage/database-address.js'
import { claimDataDirectory } from '../dist/storage/data-directory.js'
import { startEmbedded } from '../dist/storage/embedded/embedded-postgres.js'
import { migrate } from '../dist/storage/migrate.js'

/** Databases for the run: on the server of `DATABASE_URL` where it is set, else on an embedded PostgreSQL under `dataDir`. */
export async function openBenchDatabase(dataDir: string): Promise<{
  /** Migrated. */
  readonly brokerUrl: string
  create(name: string): Promise<string>
  close(): Promise<void>
}> {
  const server = await openServer(dataDir)
  const admin = connectTo(server.url)
  const created: string[] = []
  async function create(name: string): Promise<string> {
    const unique = `${name}_${randomUUID().slice(0, 8)}`
    await admin.unsafe(`CREATE DATABASE "${unique}"`)
    created.push(unique)
    return server.urlOf(unique)
  }
  const brokerUrl = await create('onbehalf')
  await migrate(new Secret(brokerUrl))
  return {
    brokerUrl,
    create,
    async close() {
      for (const name of created) {
        await admin.unsafe(`DROP DATABASE IF EXISTS "${name}" WITH (FORCE)`)
      }
      await admin.end()
      await server.stop()
    },
  }
}

/** postgres.js does not read the directory of a unix socket from a URL. */
export function connectTo(url: string, max = 1): postgres.Sql {
  const address = readDatabaseAddress(new Secret(url), () => {})
  return postgres(address.url, {
    socket: address.socket,
    max,
    onnotice() {},
  } as postgres.Options<Record<string, never>>)
}

async function openServer(dataDir: string) {
  const given = process.env['DATABASE_URL']
  if (given !== undefined) return { url: given, urlOf: urlsOn(given), stop: async () => {} }
  const directory = await claimDataDirectory(join(dataDir, 'server'))
  const embedded = await startEmbedded({ directory, log: { info() {}, warn() {} } })
  const url = embedded.url.reveal()
  return {
    url,
    urlOf: urlsOn(url),
    async stop() {
      await embedded.stop()
      await directory.release()
    },
  }
}

function urlsOn(server: string): (database: string) => string {
  return (database) => {
    const url = new URL(server)
    url.pathname = `/${database}`
    return url.href
  }
}
