import { randomBytes } from 'node:crypto'
import { describe, expect } from 'vitest'
import { sleep } from './support/replica.ts'
import { scenario } from './support/scenario.ts'
import { type Scene, some } from './support/scene.ts'

/** Holds the next request after the server has done it, until it is let go. */
function holdNext(scene: Scene): { readonly arrived: Promise<void>; readonly letGo: () => void } {
  let letGo = () => {}
  const released = new Promise<void>((resolve) => {
    letGo = resolve
  })
  const arrived = new Promise<void>((resolve) => {
    scene.server.next(async (visit) => {
      const answer = visit.consume()
      resolve()
      await released
      await visit.send(answer)
    })
  })
  return { arrived, letGo: () => letGo() }
}

describe('while a refresh is under way', () => {
  for (const where of ['the same replica', 'another replica'] as const) {
    scenario(
      `V22: the person disconnects at ${where}: the new token is revoked, not stored`,
      {},
      async (scene) => {
        const [first, second] = scene.replicas
        const person = await scene.person()
        const held = holdNext(scene)
        const call = person.resolve(first)
        await held.arrived
        person.leave()
        const disconnect = await person.disconnect(where === 'the same replica' ? first : second)
        expect(disconnect).toBe(204)
        held.letGo()
        expect((await call).status).toBe(403)
        await scene.until('the current refresh token is revoked', () =>
          scene.server.revocations().some((token) => scene.server.isCurrent(person.id, token)),
        )
        for (const replica of scene.replicas) {
          expect((await person.resolve(replica)).reason).toBe('not_connected')
        }
        expect(await person.row()).toBeUndefined()
        return scene.finish({ requests: 1, lost: 0, saw: ['403 connect_required not_connected'] })
      },
    )
  }

  scenario(
    'V7: other columns of the row are written: the new tokens are stored all the same',
    {},
    async (scene) => {
      const [first, second] = scene.replicas
      const person = await scene.person()
      const held = holdNext(scene)
      const call = person.resolve(first)
      await held.arrived
      await scene.database.database.sql`
      UPDATE credential SET scopes = '{files:write}', account = 'changed' WHERE user_id = ${person.id}`
      held.letGo()
      expect((await call).status).toBe(200)
      expect((await person.resolve(second)).accessToken).not.toBe(person.accessToken)
      return scene.finish({ requests: 1, lost: 0, saw: ['200'] })
    },
  )

  scenario('V23: the person connects anew: what the connect brought stays', {}, async (scene) => {
    const [first, second] = scene.replicas
    const person = await scene.person()
    const held = holdNext(scene)
    const call = person.resolve(first)
    await held.arrived
    await person.reconnect()
    const connected = some(await person.row())
    held.letGo()
    await call
    const after = some(await person.row())
    expect(after.generation).toBe(connected.generation)
    const answers = await person.storm(10, [some(first), some(second)])
    expect(new Set(answers.map(({ accessToken }) => accessToken)).size).toBe(1)
    expect(answers[0]?.accessToken).not.toBe(person.accessToken)
    return scene.finish({ requests: 1, lost: 0, saw: ['200'] })
  })
})

describe('everywhere at once', () => {
  scenario(
    'P-9: a disconnect at one replica is seen by the very next call at any other, 60 times',
    { replicas: 3 },
    async (scene) => {
      for (let round = 0; round < 60; round += 1) {
        const person = await scene.person({ endsInSeconds: 3600 })
        for (const replica of scene.replicas)
          expect((await person.resolve(replica)).status).toBe(200)
        person.leave()
        expect(await person.disconnect(scene.replicas[round % 3])).toBe(204)
        const answers = await Promise.all(scene.replicas.map((replica) => person.resolve(replica)))
        expect(
          answers.map(({ status }) => status),
          `round ${round}`,
        ).toEqual([403, 403, 403])
      }
      return scene.finish({
        requests: 0,
        lost: 0,
        saw: ['200', '403 connect_required not_connected'],
      })
    },
  )

  scenario(
    'a disconnect while one replica stands still: it waits for it, 10 s at most, and that one serves nothing old afterwards',
    { replicas: 2 },
    async (scene) => {
      const [first, second] = scene.replicas
      const person = await scene.person({ endsInSeconds: 3600 })
      for (const replica of scene.replicas) expect((await person.resolve(replica)).status).toBe(200)
      await some(second).pause()
      person.leave()
      const startMs = performance.now()
      expect(await person.disconnect(first)).toBe(204)
      expect(performance.now() - startMs).toBeLessThan(13_000)
      some(second).resume()
      const answer = await person.untilSettled(second)
      expect(answer.status).toBe(403)
      return scene.finish({
        requests: 0,
        lost: 0,
        saw: ['200', '403 connect_required not_connected', '503 storage_unavailable'],
      })
    },
  )

  scenario(
    'a disconnect while one replica is cut off from PostgreSQL: afterwards it serves nothing of it',
    { replicas: 2 },
    async (scene) => {
      const [first, second] = scene.replicas
      const person = await scene.person({ endsInSeconds: 3600 })
      for (const replica of scene.replicas) expect((await person.resolve(replica)).status).toBe(200)
      some(second).wire.stall()
      person.leave()
      expect(await person.disconnect(first)).toBe(204)
      for (let call = 0; call < 5; call += 1)
        expect((await person.resolve(second)).status).not.toBe(200)
      some(second).wire.open()
      expect((await person.untilSettled(second)).status).toBe(403)
      return scene.finish({
        requests: 0,
        lost: 0,
        saw: ['200', '403 connect_required not_connected', '503 storage_unavailable'],
      })
    },
  )
})

describe('V24: a changed configuration', () => {
  scenario(
    'another client_id: configuration_changed without a request; put back, it heals',
    { replicas: 1 },
    async (scene) => {
      const [first] = scene.replicas
      const person = await scene.person({ endsInSeconds: 3600 })
      expect((await person.resolve(first)).status).toBe(200)
      await some(first).kill('SIGTERM')
      await some(first).start(withClient('another'))
      expect((await person.resolve(first)).reason).toBe('configuration_changed')
      expect(await person.view(first)).toMatchObject({ reason: 'configuration_changed' })
      await some(first).kill('SIGTERM')
      await some(first).start(withClient('faults'))
      expect((await person.resolve(first)).accessToken).toBe(person.accessToken)
      return scene.finish({
        requests: 0,
        lost: 0,
        saw: ['200', '403 connect_required configuration_changed'],
      })
    },
  )
})

function withClient(clientId: string): (config: Record<string, unknown>) => void {
  return (config) => {
    const upstreams = config['upstreams'] as Record<string, { credential: { client_id: string } }>
    for (const upstream of Object.values(upstreams)) upstream.credential.client_id = clientId
  }
}

describe('S1, S2, S3: stored ciphertext that was changed', () => {
  scenario(
    'is refused with credential_corrupt, costs no request, and hurts nobody else',
    { replicas: 1 },
    async (scene) => {
      const [first] = scene.replicas
      const { sql } = scene.database.database
      const other = await scene.person({ endsInSeconds: 3600 })
      const changes: readonly ((id: string) => Promise<unknown>)[] = [
        // Somebody else's.
        (id) => sql`
        UPDATE credential SET access_token = (SELECT access_token FROM credential WHERE user_id = ${other.id})
        WHERE user_id = ${id}`,
        // Another field's.
        (id) => sql`UPDATE credential SET access_token = refresh_token WHERE user_id = ${id}`,
        // An older generation's.
        (id) => sql`UPDATE credential SET generation = generation + 100000 WHERE user_id = ${id}`,
        // Cut, emptied, in clear, another format.
        (id) =>
          sql`UPDATE credential SET access_token = substr(access_token, 1, 40) WHERE user_id = ${id}`,
        (id) => sql`UPDATE credential SET access_token = '' WHERE user_id = ${id}`,
        (id) => sql`UPDATE credential SET access_token = 'plain text' WHERE user_id = ${id}`,
        (id) =>
          sql`UPDATE credential SET access_token = '\\x00'::bytea || substr(access_token, 2) WHERE user_id = ${id}`,
      ]
      for (const change of changes) {
        const person = await scene.person({ endsInSeconds: 3600 })
        await change(person.id)
        expect((await person.resolve(first)).code).toBe('credential_corrupt')
        expect((await other.resolve(first)).status).toBe(200)
      }
      // A refresh token that does not open: the credential has ended, nothing is sent.
      const ended = await scene.person()
      await sql`UPDATE credential SET refresh_token = ${randomBytes(200)} WHERE user_id = ${ended.id}`
      expect((await ended.resolve(first)).code).toBe('credential_corrupt')
      // A flipped bit anywhere.
      for (let round = 0; round < 40; round += 1) {
        const person = await scene.person({ endsInSeconds: 3600 })
        await sql`
        UPDATE credential SET access_token = set_bit(access_token, at.bit, 1 - get_bit(access_token, at.bit))
        FROM (SELECT (random() * (bit_length(access_token) - 1))::int AS bit FROM credential WHERE user_id = ${person.id}) AS at
        WHERE user_id = ${person.id}`
        expect((await person.resolve(first)).code).toBe('credential_corrupt')
      }
      return scene.finish({ requests: 0, lost: 0, saw: ['200', '503 credential_corrupt'] })
    },
  )
})

describe('S18: the database is restored from an old backup', () => {
  scenario(
    'strict: one request, then a clear reason; a credential that is valid is served',
    {},
    async (scene) => {
      const [first, second] = scene.replicas
      const { sql } = scene.database.database
      const person = await scene.person()
      await sql`CREATE TABLE backup AS SELECT * FROM credential`
      expect((await person.resolve(first)).status).toBe(200)
      for (const replica of scene.replicas) await replica.kill('SIGTERM')
      await sql`DELETE FROM credential`
      await sql`INSERT INTO credential SELECT * FROM backup`
      await sql`DROP TABLE backup`
      for (const replica of scene.replicas) await replica.start()
      await person.storm(20, [some(first), some(second)])
      await sleep(500)
      await person.storm(20, [some(first), some(second)])
      return scene.finish({
        requests: 2,
        lost: 1,
        reuses: 1,
        saw: ['200', '403 connect_required refresh_failed'],
      })
    },
  )
})

describe('V16: warm resolves', () => {
  scenario(
    '2,000 of them write nothing to the table of credentials',
    { replicas: 2 },
    async (scene) => {
      const people = await Promise.all(
        Array.from({ length: 10 }, () => scene.person({ endsInSeconds: 3600 })),
      )
      const { sql } = scene.database.database
      /** A row that is written, even with what was there, is another version at another place. */
      const versions = () =>
        sql`SELECT user_id, ctid::text AS place, xmin::text AS version FROM credential ORDER BY user_id`
      const before = await versions()
      for (let round = 0; round < 20; round += 1) {
        await Promise.all(people.map((person) => person.storm(10, scene.replicas)))
      }
      expect(await versions()).toEqual(before)
      return scene.finish({ requests: 0, lost: 0, saw: ['200'] })
    },
  )
})
