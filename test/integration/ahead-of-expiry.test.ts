import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import type { AheadTerms } from '../../src/core/ports/due-renewals.ts'
import { Secret } from '../../src/core/secret.ts'
import { createCredentialStore } from '../../src/sealing/credential-store.ts'
import { createEnvelope } from '../../src/sealing/envelope.ts'
import { createKeyring, generateKey } from '../../src/sealing/keyring.ts'
import { createCredentialRecords } from '../../src/storage/credential-records.ts'
import { createDueRenewals } from '../../src/storage/due-renewals.ts'
import { binding, keyOf, newCredential, tokenSet } from '../contracts/credential-store-contract.ts'
import { endpoints } from '../support/authorization-server.ts'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'

describe('which connections are renewed ahead of their end', () => {
  const sealer = createEnvelope(createKeyring([{ id: 'k1', secret: new Secret(generateKey()) }]))
  const terms: AheadTerms = {
    upstream: 'files',
    binding,
    refreshBeforeSeconds: 60,
    usesSignInTokens: false,
    limit: 100,
  }
  let database: TestDatabase
  beforeEach(async () => {
    database = await createTestDatabase()
  })
  afterEach(() => database.drop())

  const take = async (changes: Partial<AheadTerms> = {}, withinSeconds = 0) => {
    const taken = await createDueRenewals(database.database).take(
      [{ ...terms, ...changes }],
      withinSeconds,
    )
    return taken.map(({ userId }) => userId).toSorted()
  }

  /** A connection of a lifetime of an hour that ends in 30 s and was used a minute ago. */
  async function put(
    userId: string,
    changes: {
      readonly endsIn?: number
      readonly lifetime?: number
      readonly usedBefore?: number | undefined
      readonly upstream?: string
      readonly renewed?: boolean
      readonly refreshToken?: boolean
    } = {},
  ) {
    const { endsIn = 30, lifetime = 3600, upstream = 'files', renewed = false } = changes
    const usedBefore = 'usedBefore' in changes ? changes.usedBefore : 60
    const { sql } = database.database
    const key = keyOf(userId, upstream)
    const records = createCredentialRecords(database.database)
    const tokens = tokenSet(
      userId,
      changes.refreshToken === false ? { refreshToken: undefined } : {},
    )
    await createCredentialStore({ records, sealer }).put(
      key,
      newCredential(userId, { tokens, renewed }),
    )
    await sql`
      UPDATE credential SET expires_at = now() + make_interval(secs => ${endsIn}),
        obtained_at = now() + make_interval(secs => ${endsIn - lifetime})
      WHERE user_id = ${userId} AND upstream = ${upstream}`
    if (usedBefore === undefined) return
    await sql`
      INSERT INTO last_use VALUES (
        ${key.issuer}, ${userId}, ${upstream}, now() - make_interval(secs => ${usedBefore}))`
  }

  const set = (userId: string, change: string) =>
    database.database.sql.unsafe(`UPDATE credential SET ${change} WHERE user_id = '${userId}'`)

  it('those in use whose credential is closer to its end than refresh_before', async () => {
    await put('due')
    await put('not-due', { endsIn: 90 })
    await put('just-ended', { endsIn: -30 })
    await put('long-ended', { endsIn: -300 })
    expect(await take()).toEqual(['due', 'just-ended'])
  })

  it('those that will be due before the next look, with the time until then', async () => {
    await put('soon', { endsIn: 90 })
    await put('later', { endsIn: 150 })
    const [soon, ...others] = await createDueRenewals(database.database).take([terms], 45)
    expect(others).toEqual([])
    expect(soon).toMatchObject({ userId: 'soon', upstream: 'files' })
    expect(soon?.dueInSeconds).toBeGreaterThan(15)
    expect(soon?.dueInSeconds).toBeLessThanOrEqual(30)
  })

  it('in use: within the last lifetime of the credential, 10 minutes at least', async () => {
    await put('never', { usedBefore: undefined })
    await put('within-lifetime', { usedBefore: 3500 })
    await put('before-lifetime', { usedBefore: 3700 })
    await put('short-9min', { lifetime: 100, usedBefore: 540 })
    await put('short-11min', { lifetime: 100, usedBefore: 660 })
    expect(await take()).toEqual(['short-9min', 'within-lifetime'])
  })

  it('one that came from a refresh not before half of its life is over', async () => {
    // All of them are within refresh_before from their first second.
    await put('first', { lifetime: 50, endsIn: 40 })
    await put('young', { lifetime: 50, endsIn: 40, renewed: true })
    await put('half', { lifetime: 50, endsIn: 24, renewed: true })
    expect(await take()).toEqual(['first', 'half'])
  })

  it('no dead one, none that another is renewing or that has to wait, none at a paused server', async () => {
    for (const name of ['dead', 'leased', 'waiting', 'good']) await put(name)
    await set('dead', `status = 'reconnect_required'`)
    await set('leased', `lease_until = now() + interval '1 minute'`)
    await set('waiting', `next_try_at = now() + interval '1 minute'`)
    expect(await take()).toEqual(['good'])
    await put('paused')
    await database.database.sql`
      INSERT INTO token_endpoint_pause (authorization_server, paused_until)
      VALUES (${binding.authorizationServer}, now() + interval '1 minute')`
    expect(await take()).toEqual([])
  })

  it('V24: only what is bound to the issuer, client and resource that are configured', async () => {
    await put('good')
    const { authorizationServer, clientId } = binding
    expect(await take({ binding: { ...binding, authorizationServer: 'https://other' } })).toEqual(
      [],
    )
    expect(await take({ binding: { ...binding, clientId: 'other' } })).toEqual([])
    expect(await take({ binding: { authorizationServer, clientId, resource: undefined } })).toEqual(
      [],
    )
    expect(await take()).toEqual(['good'])
  })

  it('one without a refresh token where a stored sign-in token can be exchanged', async () => {
    await put('ada', { refreshToken: false })
    await put('grace', { refreshToken: false })
    await database.database.sql`
      INSERT INTO sign_in_token (issuer, user_id, generation, access_token)
      VALUES (${keyOf('ada').issuer}, 'ada', 1, '\\x00')`
    expect(await take()).toEqual([])
    expect(await take({ usesSignInTokens: true })).toEqual(['ada'])
  })

  it('the soonest to end first, no more than asked for, of its upstream only', async () => {
    for (const endsIn of [50, 10, 40, 20, 30]) await put(`ends-in-${endsIn}`, { endsIn })
    await put('other', { upstream: 'mail' })
    expect(await take({ limit: 2 })).toEqual(['ends-in-10', 'ends-in-20'])
    expect(await take({ limit: 100 })).toEqual(['ends-in-30', 'ends-in-40', 'ends-in-50'])
  })

  it('each is given to one replica, however many ask at once, and to another after a while', async () => {
    const names = Array.from({ length: 40 }, (_, at) => `person-${at}`)
    await Promise.all(names.map((name) => put(name)))
    const taken = await Promise.all([take(), take(), take(), take({ limit: 5 })])
    expect(taken.flat().toSorted()).toEqual(names.toSorted())
    expect(await take()).toEqual([])
    await database.database
      .sql`UPDATE credential SET ahead_after = ahead_after - interval '31 seconds'`
    expect(await take()).toHaveLength(40)
  })

  it('what is postponed is left alone, unless it was renewed meanwhile', async () => {
    await put('ada')
    await put('grace')
    const due = createDueRenewals(database.database)
    const [first, second] = await due.take([terms], 0)
    if (first === undefined || second === undefined) throw new Error('not taken')
    await due.postpone(first, 900)
    await due.postpone({ ...second, generation: second.generation - 1 }, 900)
    await database.database
      .sql`UPDATE credential SET ahead_after = ahead_after - interval '31 seconds'`
    expect(await take()).toEqual([second.userId])
  })

  it('what was taken or postponed keeps nothing from its successor, which may end as soon', async () => {
    await put('ada')
    await put('grace')
    const [first] = await createDueRenewals(database.database).take([terms], 0)
    if (first === undefined) throw new Error('not taken')
    const records = createCredentialRecords(database.database)
    const credentials = createCredentialStore({ records, sealer })
    const key = keyOf('ada')
    const found = await credentials.find(key)
    const claim = await credentials.claimRenewal(key, found?.connection.generation ?? 0)
    if (claim === undefined) throw new Error('not claimed')
    const expiresAt = new Date(Date.now() + 20_000)
    await credentials.commitRenewal(key, claim, {
      tokens: tokenSet('ada-2', { expiresAt }),
      scopes: [],
    })
    await put('grace', { usedBefore: undefined })
    expect(await take({}, 20)).toEqual(['ada', 'grace'])
  })
})

describe('ahead of expiry, in a broker', () => {
  let broker: TestBroker
  beforeAll(async () => {
    broker = await startTestBroker({ storeSubjectToken: true })
    await broker.connect('ada')
    await broker.connect('grace')
  })
  afterAll(() => broker.stop())

  const requests = () => broker.authorizationServer.received(endpoints.token).length
  const exchanges = () => broker.identityProvider.received(endpoints.token).length
  const asserted = (id: string, upstream = 'files') =>
    broker.resolve({ upstream, user: { issuer: broker.identityProvider.issuer, id } })

  async function used(person: string, upstream = 'files'): Promise<void> {
    await broker.database.database.sql`
      INSERT INTO last_use VALUES (${broker.identityProvider.issuer}, ${person}, ${upstream}, now())
      ON CONFLICT (issuer, user_id, upstream) DO UPDATE SET last_used_at = now()`
  }

  /** Records that nobody called for. */
  const ownRecords = () =>
    broker.database.database.sql<Record<string, unknown>[]>`
      SELECT user_id, upstream, type, actor_id, action, method, outcome, reason FROM activity
      WHERE actor_kind = 'system' ORDER BY occurred_at`

  async function generationOf(person: string, upstream = 'files'): Promise<number> {
    const [row] = await broker.database.database.sql<[{ generation: number }]>`
      SELECT generation FROM credential WHERE user_id = ${person} AND upstream = ${upstream}`
    return row.generation
  }

  const forget = () => broker.database.database.sql`UPDATE credential SET ahead_after = NULL`

  it('renews a connection in use once, over two replicas, with a record of its own; nobody waits; idle ones are left alone', async () => {
    const before = requests()
    const generations = { ada: await generationOf('ada'), grace: await generationOf('grace') }
    await used('ada')
    await broker.database.database.sql`DELETE FROM last_use WHERE user_id = 'grace'`
    for (const person of ['ada', 'grace'])
      await broker.age(person, 'files', { expiresInSeconds: 40, ahead: true })
    await forget()
    const replicas = await Promise.all([broker.startBeside(), broker.startBeside()])
    await expect.poll(() => generationOf('ada'), { timeout: 30_000 }).not.toBe(generations.ada)
    expect(requests() - before).toBe(1)
    expect(await generationOf('grace')).toBe(generations.grace)
    await expect.poll(ownRecords).toEqual([
      {
        user_id: 'ada',
        upstream: 'files',
        type: 'credential_broker',
        actor_id: 'onbehalf',
        action: 'refresh',
        method: 'connect',
        outcome: 'success',
        reason: null,
      },
    ])
    for (const replica of replicas) {
      const answer = await replica.resolve({
        upstream: 'files',
        user: { issuer: broker.identityProvider.issuer, id: 'ada' },
      })
      expect(answer.status).toBe(200)
    }
    expect(requests() - before).toBe(1)
    for (const replica of replicas) await replica.stop()
  })

  it('exchanges the stored sign-in token again', async () => {
    expect((await asserted('ada', 'reports')).status).toBe(200)
    const generation = await generationOf('ada', 'reports')
    const before = exchanges()
    await used('ada', 'reports')
    await broker.age('ada', 'reports', { expiresInSeconds: 40, ahead: true })
    await forget()
    const replica = await broker.startBeside()
    await expect
      .poll(() => generationOf('ada', 'reports'), { timeout: 30_000 })
      .not.toBe(generation)
    expect(exchanges() - before).toBe(1)
    const records = async () => (await ownRecords()).at(-1)
    await expect.poll(records).toMatchObject({
      upstream: 'reports',
      action: 'refresh',
      method: 'token_exchange',
      outcome: 'success',
    })
    await replica.stop()
  })

  it('a dead grant is asked about once, and its connection ends', async () => {
    const before = requests()
    broker.authorizationServer.fail(
      endpoints.token,
      {
        kind: 'answer',
        status: 400,
        headers: { 'content-type': 'application/json' },
        body: '{"error":"invalid_grant"}',
      },
      1,
    )
    await used('grace')
    await broker.age('grace', 'files', { expiresInSeconds: 40, ahead: true })
    await forget()
    const replica = await broker.startBeside()
    const status = async () => {
      const answer = await broker.call('GET', '/api/v1/connections/files', 'grace')
      return [answer.body['status'], answer.body['reason']]
    }
    await expect.poll(status, { timeout: 30_000 }).toEqual(['reconnect_required', 'refresh_failed'])
    const records = async () => (await ownRecords()).at(-1)
    await expect.poll(records).toMatchObject({
      user_id: 'grace',
      action: 'refresh',
      outcome: 'failure',
      reason: 'refresh_failed',
    })
    expect(requests() - before).toBe(1)
    await replica.stop()
  })
})
