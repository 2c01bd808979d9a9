import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { CredentialKey } from '../../src/core/credential.ts'
import { isBrokerError } from '../../src/core/errors.ts'
import type { CredentialStore } from '../../src/core/ports/credential-store.ts'
import { Secret } from '../../src/core/secret.ts'
import { createConnectStore } from '../../src/sealing/connect-store.ts'
import { createCredentialStore } from '../../src/sealing/credential-store.ts'
import { createEnvelope } from '../../src/sealing/envelope.ts'
import { createKeyring, generateKey } from '../../src/sealing/keyring.ts'
import { createConnectRecords } from '../../src/storage/connect-records.ts'
import { createCredentialRecords } from '../../src/storage/credential-records.ts'
import type { Database } from '../../src/storage/database.ts'
import { keyOf, newCredential, tokenSet } from '../contracts/credential-store-contract.ts'
import { createSecretScan, scanDatabase } from '../support/secret-scan.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'

// Whoever can write to the database must get nobody's token out of the broker.

const secretText = generateKey()
const openSealer = (text = secretText) =>
  createEnvelope(createKeyring([{ id: 'k1', secret: new Secret(text) }]))

let testDatabase: TestDatabase
let database: Database
let store: CredentialStore

beforeAll(async () => {
  testDatabase = await createTestDatabase()
  database = testDatabase.database
  store = openStore()
})
afterAll(() => testDatabase.drop())

function openStore(sealer = openSealer()): CredentialStore {
  return createCredentialStore({ records: createCredentialRecords(database), sealer })
}

type Field = 'access_token' | 'refresh_token'

async function read(key: CredentialKey, field: Field): Promise<Buffer> {
  const { sql } = database
  const [row] = await sql<{ blob: Buffer }[]>`
    SELECT ${sql(field)} AS blob FROM credential WHERE user_id = ${key.userId} AND upstream = ${key.upstream}`
  if (row === undefined) throw new Error('no row')
  return row.blob
}

async function write(key: CredentialKey, field: Field, blob: Uint8Array | null): Promise<void> {
  const { sql } = database
  const written = await sql`
    UPDATE credential SET ${sql(field)} = ${blob}
    WHERE user_id = ${key.userId} AND upstream = ${key.upstream}`
  expect(written.count).toBe(1)
}

async function generationOf(key: CredentialKey): Promise<number> {
  const [listed] = (await store.list(key)).filter(({ upstream }) => upstream === key.upstream)
  return listed?.generation ?? -1
}

async function expectCorrupt(act: () => Promise<unknown>): Promise<void> {
  await expect(act()).rejects.toSatisfy((error) => isBrokerError(error, 'credential_corrupt'))
}

describe('S1: sealed values that were moved', () => {
  it('another person’s access token in one’s own row', async () => {
    const [victim, thief, bystander] = [keyOf('s1-victim'), keyOf('s1-thief'), keyOf('s1-by')]
    for (const key of [victim, thief, bystander]) await store.put(key, newCredential(key.userId))
    await write(thief, 'access_token', await read(victim, 'access_token'))
    await expectCorrupt(() => store.find(thief))
    for (const key of [victim, bystander]) {
      expect((await store.find(key))?.credential?.accessToken.reveal()).toBe(
        `CANARY-AT-${key.userId}`,
      )
    }
  })

  it('another person’s whole row under one’s own name', async () => {
    const [victim, thief] = [keyOf('s1-row-victim'), keyOf('s1-row-thief')]
    await store.put(victim, newCredential('victim'))
    await database.sql`UPDATE credential SET user_id = ${thief.userId} WHERE user_id = ${victim.userId}`
    await expectCorrupt(() => store.find(thief))
    await expectCorrupt(async () => store.claimRenewal(thief, await generationOf(thief)))
    expect(await store.take(thief)).toMatchObject({ method: 'connect', token: undefined })
  })

  it('the person’s own token for another upstream', async () => {
    const [files, mail] = [keyOf('s1-own', 'files'), keyOf('s1-own', 'mail')]
    await store.put(files, newCredential('files'))
    await store.put(mail, newCredential('mail'))
    await write(mail, 'access_token', await read(files, 'access_token'))
    await expectCorrupt(() => store.find(mail))
  })

  it('a refresh token in the column of the access token, and the other way round', async () => {
    const key = keyOf('s1-columns')
    await store.put(key, newCredential('columns'))
    const [access, refresh] = [await read(key, 'access_token'), await read(key, 'refresh_token')]
    await write(key, 'access_token', refresh)
    await expectCorrupt(() => store.find(key))
    await write(key, 'access_token', access)
    await write(key, 'refresh_token', access)
    expect((await store.find(key))?.credential).toBeDefined()
    await expectCorrupt(async () => store.claimRenewal(key, await generationOf(key)))
  })

  it('an older value of the same row, also when its generation is rolled back but for one column', async () => {
    const key = keyOf('s1-rollback')
    const first = await store.put(key, newCredential('first'))
    const old = await read(key, 'access_token')
    const claim = await store.claimRenewal(key, first.generation)
    if (claim === undefined) throw new Error('no claim')
    await store.commitRenewal(key, claim, { tokens: tokenSet('second'), scopes: [] })
    const now = await read(key, 'access_token')
    await write(key, 'access_token', old)
    await expectCorrupt(() => store.find(key))
    await write(key, 'access_token', now)
    expect((await store.find(key))?.credential?.accessToken.reveal()).toBe('CANARY-AT-second')
    await database.sql`UPDATE credential SET generation = ${first.generation} WHERE user_id = ${key.userId}`
    await expectCorrupt(() => store.find(key))
  })

  it('a connected row whose token was taken away is no row without a credential', async () => {
    const key = keyOf('s1-emptied')
    await store.put(key, newCredential('emptied'))
    await write(key, 'access_token', null)
    await expectCorrupt(() => store.find(key))
  })

  it('a dead connection brought back to life with an old token', async () => {
    const key = keyOf('s1-revived')
    const { generation } = await store.put(key, newCredential('revived'))
    const old = await read(key, 'access_token')
    const claim = await store.claimRenewal(key, generation)
    if (claim === undefined) throw new Error('no claim')
    const renewed = await store.commitRenewal(key, claim, { tokens: tokenSet('new'), scopes: [] })
    const next = await store.claimRenewal(key, renewed?.generation ?? -1)
    if (next === undefined) throw new Error('no claim')
    await store.failRenewal(key, next, { kind: 'reconnect', reason: 'refresh_failed' })
    await write(key, 'access_token', old)
    expect((await store.find(key))?.credential).toBeUndefined()
    await database.sql`UPDATE credential SET status = 'connected' WHERE user_id = ${key.userId}`
    await expectCorrupt(() => store.find(key))
  })
})

describe('S2, S3: values that were changed', () => {
  it.each([
    ['a raw token', Buffer.from('CANARY-AT-plain')],
    ['JSON', Buffer.from('{"access_token":"CANARY-AT-plain"}')],
    ['nothing', Buffer.alloc(0)],
    ['one byte', Buffer.of(0xb7)],
    ['format 0', Buffer.concat([Buffer.of(0xb7, 0, 2), Buffer.from('k1'), Buffer.alloc(80)])],
    ['noise', randomBytes(300)],
  ])('%s in the place of a token', async (_name, blob) => {
    const key = keyOf('s2')
    const { generation } = await store.put(key, newCredential('s2'))
    await write(key, 'access_token', blob)
    await write(key, 'refresh_token', blob)
    await expectCorrupt(() => store.find(key))
    await expectCorrupt(() => store.claimRenewal(key, generation))
    expect(await store.take(key)).toMatchObject({ method: 'connect', token: undefined })
    expect(await store.find(key)).toBeUndefined()
  })

  it('each of 100 random bits, in the row', async () => {
    const key = keyOf('s3')
    await store.put(key, newCredential('s3'))
    const good = await read(key, 'access_token')
    for (let round = 0; round < 100; round += 1) {
      const bit = (round * 7919) % (good.length * 8)
      const flipped = Buffer.from(good)
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7))
      await write(key, 'access_token', flipped)
      await expectCorrupt(() => store.find(key))
    }
    await write(key, 'access_token', good)
    expect((await store.find(key))?.credential?.accessToken.reveal()).toBe('CANARY-AT-s3')
  })

  it('a claim that does not open sends nothing and holds no lease', async () => {
    const key = keyOf('s3-claim')
    const { generation } = await store.put(key, newCredential('s3-claim'))
    const good = await read(key, 'refresh_token')
    await write(key, 'refresh_token', Buffer.from(good).fill(0, 60, 61))
    await expectCorrupt(() => store.claimRenewal(key, generation))
    await expectCorrupt(() => store.claimRenewal(key, generation))
    await write(key, 'refresh_token', good)
    const claim = await store.claimRenewal(key, generation)
    expect(claim?.afterLostAnswer).toBe(false)
    expect(claim?.refreshToken.reveal()).toBe('CANARY-RT-s3-claim')
  })

  it('connecting again replaces a row that does not open', async () => {
    const key = keyOf('s3-again')
    await store.put(key, newCredential('before'))
    await write(key, 'access_token', Buffer.from('CANARY'))
    await expectCorrupt(() => store.find(key))
    await store.put(key, newCredential('after'))
    expect((await store.find(key))?.credential?.accessToken.reveal()).toBe('CANARY-AT-after')
  })

  it('a disconnect revokes what still opens: the access token where the refresh token does not', async () => {
    const key = keyOf('s3-half')
    await store.put(key, newCredential('half'))
    await write(key, 'refresh_token', Buffer.from('CANARY'))
    const taken = await store.take(key)
    expect(taken).toMatchObject({ method: 'connect', hint: 'access_token' })
    expect(taken?.token?.reveal()).toBe('CANARY-AT-half')
  })

  it('the list of connections, which opens nothing, stays readable', async () => {
    const key = keyOf('s3-list')
    await store.put(key, newCredential('list'))
    await write(key, 'access_token', Buffer.from('CANARY'))
    expect(await store.list(key)).toMatchObject([{ upstream: 'files', status: 'connected' }])
  })
})

describe('S4: a copy of the database', () => {
  const canaries = ['AT-dumped', 'RT-dumped', 'claims-dumped', 'verifier-dumped']

  it('M-S1: holds no token, link, challenge or verifier as text, hex or base64', async () => {
    const key = keyOf('s4-dump')
    const connect = createConnectStore({
      records: createConnectRecords(database),
      sealer: openSealer(),
    })
    const ticket = {
      ...key,
      returnTo: undefined,
      scopes: [],
      claims: new Secret('CANARY-claims-dumped'),
    }
    await store.put(key, newCredential('dumped'))
    const offered = await connect.offerTicket(ticket)
    const issued = await connect.issueTicket(ticket)
    const flow = {
      ...key,
      state: 'CANARY-state-dumped',
      browser: 'CANARY-browser-dumped',
      returnTo: undefined,
      scopes: [],
      codeVerifier: new Secret('CANARY-verifier-dumped'),
      expectedIssuer: undefined,
      issuerRequired: false,
      binding: { authorizationServer: 'https://as', clientId: 'c', resource: undefined },
    }
    expect(await connect.beginFlow(issued.ticket.reveal(), flow)).toBe(true)

    const scan = createSecretScan()
    for (const name of canaries) scan.register(name, `CANARY-${name}`)
    scan.register('state', flow.state)
    scan.register('browser', flow.browser)
    scan.register('offered link', offered.ticket.reveal())
    scan.register('issued link', issued.ticket.reveal())
    // It plants a secret of its own and fails when it does not find that.
    expect((await scanDatabase(scan, database.sql)).findings).toEqual([])
    await write(key, 'access_token', Buffer.from('..CANARY-AT-dumped..'))
    expect((await scanDatabase(scan, database.sql)).findings).not.toEqual([])
  })

  it('M-S8: opens nothing with another key, and refuses without a crash', async () => {
    const keys = Array.from({ length: 20 }, (_, at) => keyOf(`s4-copied-${at}`))
    for (const key of keys) await store.put(key, newCredential(key.userId))
    const stranger = openStore(openSealer(generateKey()))
    for (const key of keys) {
      await expectCorrupt(() => stranger.find(key))
      expect((await stranger.list(key)).map(({ upstream }) => upstream)).toEqual(['files'])
    }
    const [first] = keys
    if (first === undefined) throw new Error('no key')
    await stranger.put(first, newCredential('new owner'))
    expect((await stranger.find(first))?.credential?.accessToken.reveal()).toBe(
      'CANARY-AT-new owner',
    )
    expect((await store.find(keys[1] ?? first))?.credential).toBeDefined()
  })
})
