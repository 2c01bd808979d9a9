import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import { join } from 'node:path'
import type { TestProject } from 'vitest/node'
import { Secret } from '../../src/core/secret.ts'
import { claimDataDirectory } from '../../src/storage/data-directory.ts'
import { startEmbedded } from '../../src/storage/embedded/embedded-postgres.ts'
import { migrate } from '../../src/storage/migrate.ts'
import { connectTo, databaseUrl } from './postgres-client.ts'

declare module 'vitest' {
  interface ProvidedContext {
    /** The PostgreSQL of this run; its URL opens the database that others are created from. */
    postgres: { readonly adminUrl: string; readonly prefix: string; readonly template: string }
  }
}

/**
 * One PostgreSQL for the whole run: that of DATABASE_URL, whose user must be allowed to create databases, else an
 * embedded one in a temporary directory. What it made is gone at the end.
 */
export async function setup(project: TestProject): Promise<() => Promise<void>> {
  const given = process.env['DATABASE_URL']
  const server = given === undefined || given === '' ? await startServer() : undefined
  const adminUrl = server?.url ?? given ?? ''
  const prefix = `onbehalf_test_${randomBytes(4).toString('hex')}`
  const template = `${prefix}_template`

  const admin = connectTo(adminUrl)
  await admin.unsafe(`create database ${template}`)
  await migrate(new Secret(databaseUrl(adminUrl, template)))
  project.provide('postgres', { adminUrl, prefix, template })

  return async () => {
    if (server === undefined) {
      const left = await admin<{ datname: string }[]>`
        select datname from pg_database where datname like ${`${prefix}%`}`
      for (const { datname } of left) await admin.unsafe(`drop database ${datname} with (force)`)
    }
    await admin.end()
    await server?.stop()
  }
}

async function startServer() {
  const dataDir = await mkdtemp(join(os.tmpdir(), 'onbehalf-tests-'))
  const directory = await claimDataDirectory(dataDir)
  const server = await startEmbedded({
    directory,
    log: { info() {}, warn() {} },
    settings: {
      fsync: 'off',
      synchronous_commit: 'off',
      full_page_writes: 'off',
      max_connections: '300',
    },
  })
  return {
    url: server.url.reveal(),
    async stop() {
      await server.stop()
      await directory.release()
      await rm(dataDir, { recursive: true, force: true })
    },
  }
}
