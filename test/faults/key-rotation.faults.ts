import { randomBytes } from 'node:crypto'
import { dirname, join } from 'node:path'
import { describe, expect } from 'vitest'
import { type Program, startProgram } from '../support/program.ts'
import { type Replica, sleep } from './support/replica.ts'
import { scenario } from './support/scenario.ts'
import { type Person, some } from './support/scene.ts'

type Key = { readonly id: string; readonly secret: string }

/** A command with the configuration of a replica, over its wire. */
function run(replica: Replica, ...argv: string[]): Program {
  const directory = dirname(replica.dataDir)
  return startProgram([...argv, '--config', join(directory, 'onbehalf.json')], { cwd: directory })
}

/** Keeps calling, six at a time, until the work is done. */
async function loadOn(
  serving: ReadonlySet<Replica>,
  people: readonly Person[],
  work: () => Promise<void>,
): Promise<void> {
  const over = new AbortController()
  let next = 0
  const caller = async () => {
    while (!over.signal.aborted) {
      next += 1
      await some(people[next % people.length]).resolve([...serving][next % serving.size])
      await sleep(20)
    }
  }
  const calling = Array.from({ length: 6 }, caller)
  try {
    await work()
  } finally {
    over.abort()
    await Promise.all(calling)
  }
}

describe('S6: an encryption key is replaced while everybody calls', () => {
  scenario(
    'two brokers, one after the other: added last, moved first, `keys rewrap` (killed in the middle, run again), removed',
    { replicas: 2 },
    async (scene) => {
      const fresh: Key = { id: 'k2', secret: randomBytes(32).toString('base64') }
      const replicas = scene.replicas.map(some)
      const [first] = replicas

      // Enough for several batches, and some whose credentials are renewed every few seconds all the while.
      const idle: Person[] = []
      while (idle.length < 900) {
        const more = Array.from({ length: 20 }, () => scene.person({ endsInSeconds: 3600 }))
        idle.push(...(await Promise.all(more)))
      }
      const busy = await Promise.all(
        Array.from({ length: 12 }, () => scene.person({ endsInSeconds: 3, livesSeconds: 4 })),
      )

      // As a load balancer does: a replica gets no more calls before it is told to end.
      const serving = new Set(replicas)
      const restartEach = async (change: (keys: readonly Key[]) => readonly Key[]) => {
        for (const replica of replicas) {
          serving.delete(replica)
          await sleep(200)
          await replica.kill('SIGTERM')
          await replica.start((config) => {
            const encryption = config['encryption'] as { keys: readonly Key[] }
            config['encryption'] = { keys: change(encryption.keys) }
          })
          serving.add(replica)
        }
      }
      const status = async () => {
        const { stdout } = await run(some(first), 'keys', 'status', '-o', 'json').ended
        const { keys } = JSON.parse(stdout) as { keys: readonly Record<string, unknown>[] }
        return keys
      }

      await loadOn(serving, [...busy, ...idle.slice(0, 30)], async () => {
        await restartEach((keys) => [...keys, fresh])
        await restartEach((keys) => keys.toReversed())
        expect(await status()).toMatchObject([{ id: 'k2' }, { id: 'k1', removable: false }])

        const killed = run(some(first), 'keys', 'rewrap')
        let batches = 0
        some(first).wire.hook((phase, text) => {
          if (phase !== 'sent' || !text.includes('WITH resealed AS')) return 'forward'
          batches += 1
          if (batches === 3) killed.kill('SIGKILL')
          return 'forward'
        })
        expect(await killed.ended).toMatchObject({ signal: 'SIGKILL' })
        some(first).wire.hook(undefined)
        const left = Number((await status()).find(({ id }) => id === 'k1')?.['rows'])
        expect(left).toBeGreaterThan(0)
        expect(left).toBeLessThan(2 * (900 + 12))

        expect(await run(some(first), 'keys', 'rewrap').ended).toMatchObject({
          code: 0,
          stderr: '',
        })
        expect(await status()).toMatchObject([
          { id: 'k2' },
          { id: 'k1', rows: 0, configured: true, removable: true },
        ])
        await restartEach((keys) => keys.filter(({ id }) => id === 'k2'))
        expect(await status()).toMatchObject([{ id: 'k2', removable: false }])
      })

      // Whoever was not called meanwhile as well: both tokens open under the new key alone.
      for (const person of [...idle.slice(0, 3), ...idle.slice(-3), ...busy]) {
        expect((await person.untilSettled(first)).status).toBe(200)
      }
      const { sql } = scene.database.database
      const records = await sql<{ outcome: string }[]>`
        SELECT outcome FROM activity WHERE type = 'administration' AND action = 'key_rewrap'`
      expect(records.map(({ outcome }) => outcome)).toEqual(['success'])
      const corrupt = await sql`SELECT FROM activity WHERE reason = 'credential_corrupt'`
      expect(corrupt).toHaveLength(0)
      return scene.finish({ requests: [12, 3000], lost: 0, saw: ['200'] })
    },
  )
})
