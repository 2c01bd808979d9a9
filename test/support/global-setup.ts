import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import os from 'node:os'
import { join } from 'node:path'
import type { TestProject } from 'vitest/node'
import { Secret } from '../../src/core/secret.ts'
import { claimDataDirectory } from '../../src/storage/data-directory.ts'
import { findBinaries } from '../../src/storage/embedded/binaries.ts'
import { clusterPaths, prepareCluster } from '../../src/storage/embedded/cluster.ts'
import { startEmbedded } from '../../src/storage/embedded/embedded-postgres.ts'
import { findOperatingUser } from '../../src/storage/embedded/operating-user.ts'
import { migrate } from '../../src/storage/migrate.ts'
import { copyDataDirectory } from './data-directory.ts'
import { connectTo, databaseUrl } from './postgres-client.ts'

declare module 'vitest' {
  interface ProvidedContext {
    /** The PostgreSQL of this run; its URL opens the database that others are created from. */
    postgres: {
      readonly adminUrl: string
      readonly prefix: string
      readonly template: string
      /** A data directory whose embedded database was never started; undefined with DATABASE_URL. */
      readonly dataDirectory: string | undefined
    }
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
  const dataDirectory = server?.unused
  project.provide('postgres', { adminUrl, prefix, template, dataDirectory })

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
  const unused = await mkdtemp(join(os.tmpdir(), 'onbehalf-tests-unused-'))
  await makeCluster(unused)
  const dataDir = await mkdtemp(join(os.tmpdir(), 'onbehalf-tests-'))
  await copyDataDirectory(unused, dataDir)
  const directory = await claimDataDirectory(dataDir)
  const server = await startEmbedded({
    directory,
    log: { info() {}, warn() {} },
    settings: {
      fsync: 'off',
      synchronous_commit: 'off',
      full_page_writes: 'off',
      // Nothing of a new database is logged then: a test's own one costs a fifth.
      wal_level: 'minimal',
      max_wal_senders: '0',
      max_connections: '300',
    },
  })
  return {
    url: server.url.reveal(),
    unused,
    async stop() {
      await server.stop()
      await directory.release()
      await rm(dataDir, { recursive: true, force: true })
      await rm(unused, { recursive: true, force: true })
    },
  }
}

async function makeCluster(dataDir: string): Promise<void> {
  const directory = await claimDataDirectory(dataDir)
  const paths = clusterPaths(directory.path)
  const binaries = await findBinaries()
  const needs = { program: binaries.postgres, dataDir, clusterDir: paths.cluster }
  await prepareCluster(paths, binaries, await findOperatingUser(needs))
  await directory.release()
}
