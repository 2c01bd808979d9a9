import { decodeJwt } from 'jose'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { BrokerError } from '../../src/core/errors.ts'
import type { Clock } from '../../src/core/ports/clock.ts'
import type { SubjectTokenType } from '../../src/core/ports/subject-tokens.ts'
import type { Database } from '../../src/storage/database.ts'
import {
  endpoints,
  rewriteJson,
  startIdentityProvider,
  type TestIdentityProvider,
} from '../support/authorization-server.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { publicUrl } from '../support/issuer-server.ts'
import { createSecretScan, scanDatabase } from '../support/secret-scan.ts'
import { codeOf, createReplica, signInAs, type SignInReplica } from '../support/sign-in-room.ts'

/** The sandbox lives in real time; ours runs ahead of it by as much as a test says. */
let aheadMs = 0
const clock: Clock = { now: () => new Date(Date.now() + aheadMs) }
const scan = createSecretScan()
let provider: TestIdentityProvider
let created: TestDatabase
let database: Database
let replica: SignInReplica
let ada: { issuer: string; userId: string }
const faults: (() => void)[] = []

beforeAll(async () => {
  provider = await startIdentityProvider({ audience: publicUrl, scan, accessTokenSeconds: 90 })
  created = await createTestDatabase()
  database = created.database
  ada = { issuer: provider.issuer, userId: 'ada' }
})

beforeEach(async () => {
  aheadMs = 0
  await database.sql`DELETE FROM sign_in_token`
  replica = createReplica({ provider, database, clock })
})

afterEach(() => {
  for (const end of faults.splice(0)) end()
})

afterAll(async () => {
  await created.drop()
  await provider.stop()
})

const refreshes = () => provider.requests({ grantType: 'refresh_token' }).length

async function find(
  type: SubjectTokenType = 'access_token',
  at = replica,
): Promise<string | undefined> {
  return (await at.subjectTokens.find(ada, type))?.reveal()
}

describe('M-I1: storing', () => {
  it('keeps the tokens of a sign-in, sealed', async () => {
    await signInAs(replica, 'ada')
    const [row] = await database.sql<Record<string, unknown>[]>`SELECT * FROM sign_in_token`
    expect(row).toMatchObject({ issuer: provider.issuer, user_id: 'ada' })
    for (const field of ['access_token', 'id_token', 'refresh_token']) {
      expect(row?.[field]).toBeInstanceOf(Buffer)
    }
    const { findings } = await scanDatabase(scan, database.sql)
    expect(scan.size()).toBeGreaterThan(3)
    expect(findings).toEqual([])
  })

  it('keeps nothing where it is off, and gives nothing of before', async () => {
    await signInAs(replica, 'ada')
    const off = createReplica({ provider, database, clock, login: { storeSubjectToken: false } })
    expect(await find('access_token', off)).toBeUndefined()
    await database.sql`DELETE FROM sign_in_token`
    await signInAs(off, 'ada')
    expect(await database.sql`SELECT 1 FROM sign_in_token`).toHaveLength(0)
  })

  it('replaces what the sign-in before it left', async () => {
    await signInAs(replica, 'ada')
    const first = await find()
    await signInAs(replica, 'ada')
    const second = await find()
    expect(second).not.toBe(first)
    expect(await database.sql`SELECT 1 FROM sign_in_token`).toHaveLength(1)
  })

  it('goes on with a refresh token where the next sign-in brings none, as Google does', async () => {
    await signInAs(replica, 'ada')
    faults.push(
      provider.fail(
        endpoints.token,
        rewriteJson(({ refresh_token: _left, ...body }) => body),
        1,
      ),
    )
    await signInAs(replica, 'ada')
    aheadMs = 40_000
    const before = refreshes()
    expect(await find()).toBeDefined()
    expect(refreshes() - before).toBe(1)
  })
})

describe('M-I2: finding', () => {
  it('gives a good token as it is, on every replica, without asking anyone', async () => {
    await signInAs(replica, 'ada')
    const before = refreshes()
    const token = await find()
    expect(decodeJwt(token!)).toMatchObject({ sub: 'ada', aud: publicUrl })
    expect(await find('jwt')).toBe(token)
    expect(await find('access_token', createReplica({ provider, database, clock }))).toBe(token)
    expect(decodeJwt((await find('id_token'))!)).toMatchObject({ sub: 'ada', aud: 'onbehalf' })
    expect(refreshes()).toBe(before)
  })

  it('refreshes one that ends within a minute, once for all who ask, and saves the rotation', async () => {
    await signInAs(replica, 'ada')
    const old = await find()
    aheadMs = 31_000
    const before = refreshes()
    const found = await Promise.all(Array.from({ length: 20 }, () => find()))
    expect(new Set(found).size).toBe(1)
    expect(found[0]).not.toBe(old)
    expect(refreshes() - before).toBe(1)
    // The next refresh needs the token that this one brought: the provider ends a grant whose used one comes again.
    aheadMs = 62_000
    const next = await find()
    expect(next).not.toBe(found[0])
    expect(provider.reuses()).toBe(0)
    expect(await find('id_token')).toBeDefined()
  })

  it('does not send a refresh token again that was spent while a caller was on its way', async () => {
    await signInAs(replica, 'ada')
    aheadMs = 31_000
    let letGo = () => {}
    const held = new Promise<void>((resolve) => {
      letGo = resolve
    })
    let reads = 0
    const slow = createReplica({
      provider,
      database,
      clock,
      before: (records) => ({
        ...records,
        async findSignInToken(person) {
          reads += 1
          const isFirst = reads === 1
          const found = await records.findSignInToken(person)
          if (isFirst) await held
          return found
        },
      }),
    })
    const late = find('access_token', slow)
    await expect.poll(() => reads).toBe(1)
    const before = refreshes()
    const quick = await find('access_token', slow)
    letGo()
    expect(await late).toBe(quick)
    expect(refreshes() - before).toBe(1)
    expect(provider.reuses()).toBe(0)
  })

  it('refreshes one once over two replicas', async () => {
    await signInAs(replica, 'ada')
    aheadMs = 31_000
    const other = createReplica({ provider, database, clock })
    faults.push(provider.fail(endpoints.token, { kind: 'delay', ms: 300 }, 1))
    const before = refreshes()
    const found = await Promise.all(
      Array.from({ length: 20 }, (_, at) => find('access_token', at % 2 === 0 ? replica : other)),
    )
    expect(new Set(found).size).toBe(1)
    expect(refreshes() - before).toBe(1)
    expect(provider.reuses()).toBe(0)
  })

  it('takes over from a replica that died while it refreshed, when its turn is over', async () => {
    await signInAs(replica, 'ada')
    aheadMs = 31_000
    const old = await database.sql<{ generation: number }[]>`
      UPDATE sign_in_token SET lease_owner = gen_random_uuid(),
        lease_until = now() + interval '700 milliseconds' RETURNING generation`
    const before = refreshes()
    expect(await find()).toBeDefined()
    expect(refreshes() - before).toBe(1)
    const [row] = await database.sql<[{ generation: number; lease_until: Date | null }]>`
      SELECT generation, lease_until FROM sign_in_token`
    expect(row.generation).toBeGreaterThan(old[0]?.generation ?? 0)
    expect(row.lease_until).toBeNull()
  })

  it('V12: offers what the provider gave to the database until that is back, which may take long', async () => {
    await signInAs(replica, 'ada')
    aheadMs = 31_000
    let refused = 0
    const there = createReplica({
      provider,
      database,
      clock,
      before: (records) => ({
        ...records,
        replaceSignInToken(...replacement) {
          refused += 1
          if (refused <= 22) return Promise.reject(new BrokerError('storage_unavailable'))
          return records.replaceSignInToken(...replacement)
        },
      }),
    })
    const token = await find('access_token', there)
    expect(token).toBeDefined()
    expect(await find()).toBe(token)
    expect(provider.reuses()).toBe(0)
  })

  it('gives what is left of a refreshed token that lives for less than a minute', async () => {
    const hasty = await startIdentityProvider({ audience: publicUrl, accessTokenSeconds: 20 })
    const there = createReplica({ provider: hasty, database, clock })
    await signInAs(there, 'ada')
    expect(
      await there.subjectTokens.find({ issuer: hasty.issuer, userId: 'ada' }, 'access_token'),
    ).toBeDefined()
    await hasty.stop()
  })

  it('says sign in again: nobody signed in, no refresh token, or one that the provider takes no more', async () => {
    expect(await find()).toBeUndefined()
    await signInAs(replica, 'ada')
    await database.sql`UPDATE sign_in_token SET refresh_token = NULL`
    expect(await find()).toBeDefined()
    aheadMs = 31_000
    expect(await find()).toBeUndefined()

    aheadMs = 0
    await signInAs(replica, 'ada')
    aheadMs = 91_000
    const before = provider.received(endpoints.token).length
    faults.push(
      provider.fail(endpoints.token, {
        kind: 'answer',
        status: 400,
        headers: { 'content-type': 'application/json' },
        body: '{"error":"invalid_grant"}',
      }),
    )
    expect(await find()).toBeUndefined()
    expect(await find()).toBeUndefined()
    // Asked once: a grant that is dead is not asked again.
    expect(provider.received(endpoints.token).length - before).toBe(1)
  })

  it('serves a token to its end while the provider is in trouble, then says 503, and heals', async () => {
    await signInAs(replica, 'ada')
    const old = await find()
    const end = provider.fail(endpoints.token, { kind: 'answer', status: 503 })
    faults.push(end)
    aheadMs = 60_000
    expect(await find()).toBe(old)
    aheadMs = 91_000
    expect(await codeOf(find())).toBe('issuer_unavailable')
    expect(replica.warnings).toContain('sign_in_unavailable refused')
    end()
    expect(await find()).toBeDefined()
  })

  it('does not keep tokens that a refresh brought for someone else', async () => {
    await signInAs(replica, 'ada')
    aheadMs = 91_000
    const now = Math.floor(Date.now() / 1000)
    const claims = { iss: provider.issuer, sub: 'grace', aud: 'onbehalf', iat: now, exp: now + 600 }
    const id_token = await provider.sign(claims)
    faults.push(
      provider.fail(
        endpoints.token,
        rewriteJson((body) => ({ ...body, id_token })),
        1,
      ),
    )
    expect(await find()).toBeUndefined()
    const [row] = await database.sql<{ refresh_token: Buffer | null }[]>`
      SELECT refresh_token FROM sign_in_token`
    expect(row?.refresh_token).toBeNull()
  })
})

describe('whose tokens they are', () => {
  it('a person’s own, and nobody’s whose id begins alike or is known by another issuer', async () => {
    await signInAs(replica, 'ada')
    for (const other of [
      { ...ada, userId: 'ad' },
      { ...ada, userId: 'adam' },
      { ...ada, issuer: 'https://else.example.com' },
      { issuer: `${provider.issuer}a`, userId: 'da' },
    ]) {
      expect(await replica.subjectTokens.find(other, 'access_token')).toBeUndefined()
    }
  })

  it('do not open in another person’s row', async () => {
    await signInAs(replica, 'ada')
    await database.sql`UPDATE sign_in_token SET user_id = 'grace'`
    const grace = { ...ada, userId: 'grace' }
    expect(await replica.subjectTokens.find(grace, 'access_token')).toBeUndefined()
    expect(replica.warnings).toEqual(['sign_in_token_unusable corrupt'])
    await signInAs(replica, 'grace')
    const found = await replica.subjectTokens.find(grace, 'access_token')
    expect(decodeJwt(found!.reveal()).sub).toBe('grace')
  })
})
