import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect } from 'vitest'
import { sleep } from './support/replica.ts'
import { scenario } from './support/scenario.ts'
import { type Scene, some } from './support/scene.ts'

const run = promisify(execFile)
const tenMinutesMs = 600_000

describe('V17: clocks 10 minutes apart', () => {
  /** One replica ahead, one right, one behind. */
  async function withClocks(scene: Scene) {
    const ahead = await scene.addReplica({ clockAheadMs: tenMinutesMs })
    const behind = await scene.addReplica({ clockAheadMs: -tenMinutesMs })
    return [ahead, some(scene.replicas[0]), behind]
  }

  scenario(
    'a credential that has ended is renewed once, whoever is asked',
    { replicas: 1 },
    async (scene) => {
      const replicas = await withClocks(scene)
      for (let round = 0; round < 3; round += 1) {
        const person = await scene.person()
        for (const { accessToken, status } of await person.storm(60, replicas)) {
          expect(status).toBe(200)
          expect(accessToken).not.toBe(person.accessToken)
        }
      }
      return scene.finish({ requests: 3, lost: 0, saw: ['200'] })
    },
  )

  scenario(
    'one that has ended 3 minutes ago leaves no replica, one that lives 5 minutes is good on all',
    { replicas: 1 },
    async (scene) => {
      const replicas = await withClocks(scene)
      const person = await scene.person({ endsInSeconds: -180, livesSeconds: 300 })
      for (let round = 0; round < 3; round += 1) {
        for (const replica of replicas) {
          const { accessToken, status } = await person.resolve(replica)
          expect(status).toBe(200)
          expect(accessToken).not.toBe(person.accessToken)
        }
      }
      return scene.finish({ requests: 1, lost: 0, saw: ['200'] })
    },
  )

  scenario(
    'a stored credential of 5 minutes is not refreshed by a clock that is ahead',
    { replicas: 1 },
    async (scene) => {
      const replicas = await withClocks(scene)
      const person = await scene.person({ endsInSeconds: 300 })
      for (const { accessToken } of await person.storm(30, replicas)) {
        expect(accessToken).toBe(person.accessToken)
      }
      return scene.finish({ requests: 0, lost: 0, saw: ['200'] })
    },
  )

  for (const [which, index] of [
    ['ahead', 0],
    ['behind', 2],
  ] as const) {
    scenario(
      `the one that is ${which} is killed with the lease: the others take over in their time`,
      { replicas: 1 },
      async (scene) => {
        const replicas = await withClocks(scene)
        const holder = some(replicas[index])
        const person = await scene.person()
        scene.server.onConnection((socket) => {
          scene.server.onConnection(undefined)
          void holder.kill()
          socket.destroy()
        })
        expect((await person.resolve(holder)).status, 'it was killed at its send').toBe(0)
        for (const replica of replicas) {
          if (replica !== holder) expect((await person.untilSettled(replica)).status).toBe(200)
        }
        return scene.finish({
          requests: 1,
          lost: 0,
          saw: ['200', 'no answer', '503 upstream_unavailable'],
        })
      },
    )
  }
})

describe('a full disk under the data directory', () => {
  /** A file system of 4 MB of its own. Undefined where this user may not mount one. */
  async function smallDisk(): Promise<
    | { path: string; fill(): Promise<void>; free(): Promise<void>; remove(): Promise<void> }
    | undefined
  > {
    const path = await mkdtemp(join(tmpdir(), 'onbehalf-faults-disk-'))
    try {
      await run('mount', ['-t', 'tmpfs', '-o', 'size=4m,mode=0700', 'tmpfs', path])
    } catch {
      await rm(path, { recursive: true })
      return undefined
    }
    const ballast = join(path, 'ballast')
    return {
      path,
      async fill() {
        for (const size of [1 << 20, 1 << 12, 1]) {
          for (let part = 0; ; part += 1) {
            const written = await writeFile(`${ballast}-${size}-${part}`, Buffer.alloc(size)).catch(
              () => 'full',
            )
            if (written === 'full') break
          }
        }
      },
      async free() {
        await run('sh', ['-c', `rm -f ${ballast}-*`])
      },
      async remove() {
        await run('umount', ['-l', path])
        await rm(path, { recursive: true })
      },
    }
  }

  for (const when of ['before the refresh', 'between the send and the answer'] as const) {
    scenario(
      `${when}: nobody is lost, and the other replica serves`,
      { replicas: 1 },
      async (scene) => {
        const disk = await smallDisk()
        if (disk === undefined) throw new Error('this scenario needs a user who may mount a tmpfs')
        try {
          const full = await scene.addReplica({ dataDir: join(disk.path, 'data') })
          const person = await scene.person()
          await full.resolve('nobody', 'strict')
          if (when === 'before the refresh') await disk.fill()
          else {
            scene.server.next(async (visit) => {
              await disk.fill()
              await visit.send(visit.consume())
            })
          }
          // Many: what was written last may end inside a page that is there already.
          await person.storm(100, [full])
          expect((await person.untilSettled(scene.replicas[0])).status).toBe(200)
          await disk.free()
          await sleep(1000)
          expect((await person.untilSettled(full)).status).toBe(200)
          return await scene.finish({
            requests: 1,
            lost: 0,
            saw: [
              '200',
              '403 connect_required not_connected',
              '503 audit_unavailable',
              '503 upstream_unavailable',
              '503 storage_unavailable',
            ],
          })
        } finally {
          for (const replica of scene.replicas) await replica.kill('SIGTERM')
          await disk.remove()
        }
      },
    )
  }
})
