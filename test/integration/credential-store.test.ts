import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { CredentialKey } from '../../src/core/credential.ts'
import type { CredentialStore } from '../../src/core/ports/credential-store.ts'
import { Secret } from '../../src/core/secret.ts'
import { createCredentialStore } from '../../src/sealing/credential-store.ts'
import { createEnvelope } from '../../src/sealing/envelope.ts'
import { createKeyring, generateKey } from '../../src/sealing/keyring.ts'
import { createCredentialRecords } from '../../src/storage/credential-records.ts'
import type { Database } from '../../src/storage/database.ts'
import {
  credentialStoreContract,
  keyOf,
  newCredential,
  tokenSet,
} from '../contracts/credential-store-contract.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'

let testDatabase: TestDatabase
let database: Database
const encryptionKey = { id: 'k1', secret: new Secret(generateKey()) }

beforeAll(async () => {
  testDatabase = await createTestDatabase()
  database = testDatabase.database
})
afterAll(() => testDatabase.drop())

function openStore(keys = [encryptionKey]): CredentialStore {
  return createCredentialStore({
    records: createCredentialRecords(database),
    sealer: createEnvelope(createKeyring(keys)),
  })
}

/** Time stands in the row, so moving the row's times back lets time pass. */
async function pass(key: CredentialKey, seconds: number): Promise<void> {
  const { sql } = database
  const by = `${seconds} seconds`
  await sql`
    UPDATE credential SET
      lease_until = lease_until - ${by}::interval,
      attempt_started_at = attempt_started_at - ${by}::interval,
      next_try_at = next_try_at - ${by}::interval,
      forced_at = array(SELECT at - ${by}::interval FROM unnest(forced_at) AS at),
      connected_at = connected_at - ${by}::interval,
      obtained_at = obtained_at - ${by}::interval
    WHERE issuer = ${key.issuer} AND user_id = ${key.userId} AND upstream = ${key.upstream}`
}

credentialStoreContract('the sealing store on PostgreSQL', async () => ({
  store: openStore(),
  replica: openStore(),
  pass,
}))

describe('the sealing store on PostgreSQL', () => {
  it('V7: a change of anything but the generation does not stop a commit', async () => {
    const store = openStore()
    const key = keyOf('unrelated-change')
    const { generation } = await store.put(key, newCredential('before'))
    const claim = await store.claimRenewal(key, generation)
    if (claim === undefined) throw new Error('no claim')
    await database.sql`
      UPDATE credential SET scopes = '{changed}', account = 'changed', fail_count = 7,
        lease_owner = NULL, lease_epoch = lease_epoch + 5, next_try_at = now() + interval '1 hour'
      WHERE user_id = ${key.userId}`
    const renewed = await store.commitRenewal(key, claim, {
      tokens: tokenSet('after'),
      scopes: ['files:read'],
    })
    expect(renewed?.accessToken.reveal()).toBe('CANARY-AT-after')
    expect((await store.find(key))?.connection).toMatchObject({ scopes: ['files:read'] })
  })

  it('answers each question with one statement, a put and a take with two', async () => {
    const store = openStore()
    const key = keyOf('counted')
    const cost = async (act: () => Promise<unknown>) => {
      const before = database.statementCount()
      await act()
      return database.statementCount() - before
    }
    // Each text is prepared once a connection; the counter counts executions.
    expect(await cost(() => store.put(key, newCredential('counted')))).toBe(2)
    expect(await cost(() => store.find(key))).toBe(1)
    expect(await cost(() => store.list(key))).toBe(1)
    const generation = (await store.find(key))?.connection.generation ?? 0
    let claim: Awaited<ReturnType<CredentialStore['claimRenewal']>>
    expect(
      await cost(async () => {
        claim = await store.claimRenewal(key, generation)
      }),
    ).toBe(1)
    expect(
      await cost(async () => {
        if (claim === undefined) throw new Error('no claim')
        await store.commitRenewal(key, claim, { tokens: tokenSet('renewed'), scopes: [] })
      }),
    ).toBe(1)
    expect(await cost(() => store.take(key))).toBe(2)
  })

  it('M-S4: the sign-in token of a person is no connection', async () => {
    const store = openStore()
    const key = keyOf('signed-in')
    await database.sql`
      INSERT INTO sign_in_token (issuer, user_id, generation, access_token)
      VALUES (${key.issuer}, ${key.userId}, 1, ${Buffer.from('sealed')})`
    expect(await store.list(key)).toEqual([])
    await store.put(key, newCredential('connected'))
    expect((await store.list(key)).map(({ upstream }) => upstream)).toEqual(['files'])
    await store.take(key)
    const rows = await database.sql`SELECT 1 FROM sign_in_token WHERE user_id = ${key.userId}`
    expect(rows).toHaveLength(1)
  })

  it('generations never return, not even after a disconnect', async () => {
    const store = openStore()
    const key = keyOf('sequence')
    const seen: number[] = []
    for (let round = 0; round < 5; round += 1) {
      seen.push((await store.put(key, newCredential(`round-${round}`))).generation)
      await store.take(key)
    }
    expect(new Set(seen).size).toBe(5)
    expect(seen).toEqual(seen.toSorted((a, b) => a - b))
  })

  it('a credential that comes after a later one gives way to it', async () => {
    const [slow, quick] = [openStore(), openStore()]
    const key = keyOf('overtaken')
    const records = createCredentialRecords(database)
    // The slow one has its number already when the quick one stores.
    const overtaken = createCredentialStore({
      records: {
        ...records,
        nextGeneration: async () => {
          const generation = await records.nextGeneration()
          await quick.put(key, newCredential('quick'))
          return generation
        },
      },
      sealer: createEnvelope(createKeyring([encryptionKey])),
    })
    expect((await overtaken.put(key, newCredential('slow'))).accessToken.reveal()).toBe(
      'CANARY-AT-quick',
    )
    expect((await slow.find(key))?.credential?.accessToken.reveal()).toBe('CANARY-AT-quick')
  })

  it('two keys at once: rows of both open, and a renewal moves its row to the first', async () => {
    const fresh = { id: 'k2', secret: new Secret(generateKey()) }
    const [before, both] = [openStore(), openStore([fresh, encryptionKey])]
    const key = keyOf('rotating')
    const { generation } = await before.put(key, newCredential('under k1'))
    expect((await both.find(key))?.credential?.accessToken.reveal()).toBe('CANARY-AT-under k1')
    const claim = await both.claimRenewal(key, generation)
    if (claim === undefined) throw new Error('no claim')
    await both.commitRenewal(key, claim, {
      tokens: tokenSet('under k2', { refreshToken: undefined }),
      scopes: [],
    })
    const after = openStore([fresh])
    expect((await after.find(key))?.credential?.accessToken.reveal()).toBe('CANARY-AT-under k2')
    expect((await after.take(key))?.token?.reveal()).toBe('CANARY-RT-under k1')
  })

  it('says storage_unavailable when the database cannot be asked', async () => {
    const { database: closed, drop } = await createTestDatabase({ pool: 1 })
    await drop()
    const store = createCredentialStore({
      records: createCredentialRecords(closed),
      sealer: createEnvelope(createKeyring([encryptionKey])),
    })
    const key = keyOf('nobody')
    const { tokens, scopes } = newCredential('x')
    const claim = {
      generation: 1,
      nextGeneration: 2,
      leaseEpoch: 1,
      afterLostAnswer: false,
      failCount: 0,
      forced: false,
      refreshToken: new Secret('x'),
      scopes,
    }
    for (const call of [
      () => store.find(key),
      () => store.list(key),
      () => store.put(key, newCredential('x')),
      () => store.claimRenewal(key, 1),
      () => store.commitRenewal(key, claim, { tokens, scopes }),
      () => store.failRenewal(key, claim, { kind: 'reconnect', reason: 'refresh_failed' }),
      () => store.take(key),
    ]) {
      await expect(call()).rejects.toMatchObject({ code: 'storage_unavailable' })
    }
  })
})
