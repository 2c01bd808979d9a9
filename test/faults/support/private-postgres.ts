import { readFile, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Secret } from '../../../src/core/secret.ts'
import { claimDataDirectory } from '../../../src/storage/data-directory.ts'
import { openDatabase } from '../../../src/storage/database.ts'
import { clusterPaths } from '../../../src/storage/embedded/cluster.ts'
import { startEmbedded } from '../../../src/storage/embedded/embedded-postgres.ts'
import { migrate } from '../../../src/storage/migrate.ts'
import type { TestDatabase } from '../../support/database.ts'
import { processesNaming } from '../../support/program.ts'

/** A PostgreSQL of one scenario's own, with fsync, which comes back after whatever ends it. */
export type PrivatePostgres = TestDatabase & {
  /** SIGINT: fast shutdown. SIGKILL: a crash, with recovery. */
  readonly signal: (signal: 'SIGINT' | 'SIGKILL') => Promise<void>
}

export async function startPrivatePostgres(): Promise<PrivatePostgres> {
  const dataDir = await mkdtemp(join(tmpdir(), 'onbehalf-faults-database-'))
  const directory = await claimDataDirectory(dataDir)
  const server = await startEmbedded({ directory, log: { info() {}, warn() {} } })
  const url = server.url
  await migrate(new Secret(url.reveal()))
  const database = await openDatabase({ url, pool: 3 })
  const paths = clusterPaths(directory.path)
  return {
    url: url.reveal(),
    database,
    async signal(signal) {
      for (let tries = 100; ; tries -= 1) {
        try {
          // The file of one that is gone is there until the next one is up.
          const file = await readFile(join(paths.cluster, 'postmaster.pid'), 'utf8')
          const pid = Number(file.split('\n')[0])
          // One that was killed leaves its number behind, which may be somebody else's by now.
          const running = await processesNaming(paths.cluster)
          if (!running.some((one) => one.pid === pid)) throw new Error('it is not up')
          process.kill(pid, signal)
          return
        } catch (error) {
          if (tries === 0) throw error
          await new Promise((resolve) => setTimeout(resolve, 100))
        }
      }
    },
    async drop() {
      await database.close()
      await server.stop()
      await directory.release()
      await rm(dataDir, { recursive: true, force: true, maxRetries: 5 })
    },
  }
}
