import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { isOperatorError, type OperatorError } from '../../src/core/operator-error.ts'
import { Secret } from '../../src/core/secret.ts'
import { createConnectStore } from '../../src/sealing/connect-store.ts'
import { createCredentialStore } from '../../src/sealing/credential-store.ts'
import { createEnvelope } from '../../src/sealing/envelope.ts'
import { createKeyCheck } from '../../src/sealing/key-check.ts'
import { createKeyring, generateKey } from '../../src/sealing/keyring.ts'
import { createConnectRecords } from '../../src/storage/connect-records.ts'
import { createCredentialRecords } from '../../src/storage/credential-records.ts'
import type { Database } from '../../src/storage/database.ts'
import { createEncryptionKeyRecords } from '../../src/storage/encryption-key-records.ts'
import { sealedColumns } from '../../src/storage/sealed-columns.ts'
import { keyOf, newCredential, tokenSet } from '../contracts/credential-store-contract.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { insertSealedRow } from '../support/sealed-rows.ts'

type Key = { readonly id: string; readonly secret: Secret }

const newKey = (id: string): Key => ({ id, secret: new Secret(generateKey()) })

let testDatabase: TestDatabase
let database: Database

beforeEach(async () => {
  testDatabase = await createTestDatabase()
  database = testDatabase.database
})
afterEach(() => testDatabase.drop())

const noJournal = () => Promise.resolve([])

function checkOf(keys: readonly Key[], journal: () => Promise<readonly Uint8Array[]> = noJournal) {
  const records = createEncryptionKeyRecords(database)
  return createKeyCheck({ keyring: createKeyring(keys), records, journal })
}

function storesOf(keys: readonly Key[]) {
  const sealer = createEnvelope(createKeyring(keys))
  return {
    credentials: createCredentialStore({ records: createCredentialRecords(database), sealer }),
    connects: createConnectStore({ records: createConnectRecords(database), sealer }),
  }
}

async function refusalOf(act: () => Promise<unknown>): Promise<OperatorError> {
  try {
    await act()
  } catch (error) {
    if (isOperatorError(error, 'encryption_keys_refused')) return error
    throw error
  }
  throw new Error('was not refused')
}

/** Three people under the keys: one without a refresh token. */
async function putThree(keys: readonly Key[], prefix: string): Promise<void> {
  const { credentials } = storesOf(keys)
  await credentials.put(keyOf(`${prefix}-1`), newCredential('1'))
  await credentials.put(keyOf(`${prefix}-2`), newCredential('2'))
  const tokens = tokenSet('3', { refreshToken: undefined })
  await credentials.put(keyOf(`${prefix}-3`), newCredential('3', { tokens }))
}

async function checkRows() {
  return database.sql<{ id: string }[]>`SELECT id FROM encryption_key ORDER BY id`
}

describe('S5: the check at start', () => {
  it('remembers keys that are new, and accepts them again', async () => {
    const keys = [newKey('k1'), newKey('k2')]
    await checkOf(keys).verify()
    await checkOf(keys.toReversed()).verify()
    expect(await checkRows()).toMatchObject([{ id: 'k1' }, { id: 'k2' }])
  })

  it('refuses another secret under a known id, naming the id and no secret, and changes nothing', async () => {
    const [k1, k2] = [newKey('k1'), newKey('k2')]
    await checkOf([k1]).verify()
    const before = await database.sql`SELECT * FROM encryption_key`
    const wrong = newKey('k1')
    const refusal = await refusalOf(() => checkOf([wrong, k2]).verify())
    expect(refusal.message).toContain('"k1" has another secret')
    expect(refusal.message).not.toContain('"k2"')
    for (const { secret } of [k1, k2, wrong]) expect(refusal.message).not.toContain(secret.reveal())
    expect(await database.sql`SELECT * FROM encryption_key`).toEqual(before)
    await checkOf([k1, k2]).verify()
  })

  it('refuses two ids whose secrets were exchanged, naming both', async () => {
    const [k1, k2] = [newKey('k1'), newKey('k2')]
    await checkOf([k1, k2]).verify()
    const refusal = await refusalOf(() =>
      checkOf([
        { ...k1, secret: k2.secret },
        { ...k2, secret: k1.secret },
      ]).verify(),
    )
    expect(refusal.message).toContain('"k1" has another secret')
    expect(refusal.message).toContain('"k2" has another secret')
  })

  it('refuses a check value that was tampered with', async () => {
    const k1 = newKey('k1')
    await checkOf([k1]).verify()
    await database.sql`UPDATE encryption_key SET "check" = 'plain'::bytea`
    expect((await refusalOf(() => checkOf([k1]).verify())).message).toContain('"k1"')
  })

  it('two replicas that start at once with other secrets under one new id: the second is refused', async () => {
    const [first, second] = [newKey('k1'), newKey('k1')]
    const records = createEncryptionKeyRecords(database)
    const overtaken = createKeyCheck({
      keyring: createKeyring([second]),
      journal: noJournal,
      records: {
        ...records,
        insertCheck: async (id, check) => {
          // Both looked before either wrote.
          await checkOf([first]).verify()
          await records.insertCheck(id, check)
        },
      },
    })
    expect((await refusalOf(() => overtaken.verify())).message).toContain('"k1"')
    await checkOf([first]).verify()
  })

  it('S7: refuses when rows use a key that is missing, with its id and the number of rows', async () => {
    const [old, fresh] = [newKey('old "1"'), newKey('new')]
    await checkOf([old]).verify()
    await putThree([old], 'a')
    await storesOf([old]).credentials.put(keyOf('a-4'), newCredential('4'))
    await storesOf([old]).credentials.put(keyOf('a-5'), newCredential('5'))
    const refusal = await refusalOf(() => checkOf([fresh]).verify())
    expect(refusal.message).toContain(
      String.raw`"old \"1\"" is missing, and 5 rows use it (9 sealed values)`,
    )
    expect(await checkRows()).toMatchObject([{ id: 'old "1"' }])
    await checkOf([fresh, old]).verify()
  })

  it('starts without a key that no row uses any more, and refuses its id with another secret later', async () => {
    const [k1, k2] = [newKey('k1'), newKey('k2')]
    await checkOf([k1]).verify()
    await checkOf([k2]).verify()
    expect((await refusalOf(() => checkOf([k2, newKey('k1')]).verify())).message).toContain('"k1"')
  })

  it('says everything at once', async () => {
    const [k1, gone] = [newKey('k1'), newKey('gone')]
    await checkOf([k1, gone]).verify()
    await putThree([gone], 'a')
    const refusal = await refusalOf(() => checkOf([newKey('k1')]).verify())
    expect(refusal.message.split('\n')).toHaveLength(2)
    expect(refusal.message).toContain('"gone" is missing, and 3 rows use it')
  })

  it('refuses when an answer in the journal waits under a key that is missing, and does not name that key as removable', async () => {
    const [old, fresh] = [newKey('k1'), newKey('k2')]
    const kept = createEnvelope(createKeyring([old])).seal(new Secret('an answer'), {
      table: 'refresh_journal',
      field: 'answer',
      ...keyOf('a-1'),
      generation: 1,
    })
    const journal = () => Promise.resolve([kept, Buffer.from('nothing of ours'), Buffer.alloc(0)])
    const refusal = await refusalOf(() => checkOf([fresh], journal).verify())
    expect(refusal.message).toContain('"k1" is missing, and 1 answer')
    expect(await checkOf([fresh, old], journal).status()).toMatchObject([
      { id: 'k2', removable: false },
      { id: 'k1', rows: 0, removable: false },
    ])
    expect(await checkOf([fresh], journal).status()).toMatchObject([
      { id: 'k2' },
      { id: 'k1', rows: 0, configured: false },
    ])
    await checkOf([fresh, old], journal).verify()
  })

  it('is not kept from starting by a value that belongs to no key', async () => {
    const k1 = newKey('k1')
    await putThree([k1], 'a')
    await database.sql`UPDATE credential SET access_token = ''::bytea WHERE user_id = 'a-1'`
    await database.sql`UPDATE credential SET access_token = '\\xb701'::bytea WHERE user_id = 'a-2'`
    await database.sql`UPDATE credential SET access_token = 'plain text'::bytea WHERE user_id = 'a-3'`
    await checkOf([k1]).verify()
    expect(await checkOf([k1]).status()).toMatchObject([{ id: 'k1', rows: 2 }])
  })
})

describe('whether the keys match, which anybody may ask', () => {
  it('is told by the check values alone, once for all who ask at the same moment', async () => {
    const [k1, k2] = [newKey('k1'), newKey('k2')]
    const check = checkOf([k1, k2])
    await check.verify()
    await putThree([k1], 'old')
    const before = database.statementCount()
    const answers = await Promise.all(Array.from({ length: 50 }, () => check.matches()))
    expect(answers).toEqual(answers.map(() => true))
    expect(database.statementCount() - before).toBe(2)
    expect(await check.matches()).toBe(true)
    expect(database.statementCount() - before).toBe(4)
  })

  it('is no with another secret alone: a database that was put back may not know a new key yet', async () => {
    const k1 = newKey('k1')
    expect(await checkOf([k1]).matches()).toBe(true)
    await checkOf([k1]).verify()
    expect(await checkOf([k1]).matches()).toBe(true)
    expect(await checkOf([newKey('k1')]).matches()).toBe(false)
  })
})

describe('keys status', () => {
  it('is empty of rows at first, and the first key can never be removed', async () => {
    const status = await checkOf([newKey('k1'), newKey('k2')]).status()
    expect(status).toEqual([
      { id: 'k1', rows: 0, configured: true, seals: true, removable: false },
      { id: 'k2', rows: 0, configured: true, seals: false, removable: true },
    ])
  })

  it('says every problem that a start would refuse, and remembers no key', async () => {
    const [k1, gone] = [newKey('k1'), newKey('gone')]
    await checkOf([k1, gone]).verify()
    await putThree([gone], 'a')
    const check = checkOf([newKey('k1'), newKey('k2')])
    const refusal = await refusalOf(() => check.verify())
    const problems = await check.problems()
    expect(problems).toHaveLength(2)
    expect(problems.join('\n')).toBe(refusal.message)
    expect(await checkRows()).toMatchObject([{ id: 'gone' }, { id: 'k1' }])
    expect(await checkOf([k1, gone, newKey('k2')]).problems()).toEqual([])
    expect(await checkRows()).toHaveLength(2)
  })

  it('counts every sealed value of each key, and names ids that are used and not configured', async () => {
    const [k1, k2, k3] = [newKey('k1'), newKey('schlüssel/2'), newKey('k3')]
    await checkOf([k1, k2, k3]).verify()
    await putThree([k1], 'a')
    await putThree([k2, k1], 'b')
    const { connects } = storesOf([k2])
    const ticket = {
      ...keyOf('b-1'),
      returnTo: undefined,
      scopes: [],
      claims: new Secret('claims'),
    }
    await connects.offerTicket(ticket)
    const { ticket: link } = await connects.issueTicket({ ...ticket, claims: undefined })
    await connects.beginFlow(link.reveal(), {
      ...keyOf('b-1'),
      state: 'state',
      browser: 'browser',
      returnTo: undefined,
      scopes: [],
      codeVerifier: new Secret('verifier'),
      expectedIssuer: undefined,
      issuerRequired: false,
      binding: { authorizationServer: 'https://as', clientId: 'c', resource: undefined },
    })
    expect(await checkOf([k3, k2]).status()).toEqual([
      { id: 'k3', rows: 0, configured: true, seals: true, removable: false },
      // Five of the credentials, ticket and claims of the offer, the verifier of the flow.
      { id: 'schlüssel/2', rows: 8, configured: true, seals: false, removable: false },
      { id: 'k1', rows: 5, configured: false, seals: false, removable: false },
    ])
  })

  it('counts in every sealed column that there is', async () => {
    const k1 = newKey('k1')
    const sealer = createEnvelope(createKeyring([k1]))
    let expected = 0
    for (const [table, columns] of Object.entries(sealedColumns)) {
      await insertSealedRow(database, table, (context) => sealer.seal(new Secret('x'), context))
      expected += columns.length
      expect(await checkOf([k1]).status()).toMatchObject([{ id: 'k1', rows: expected }])
    }
    expect(expected).toBe(15)
  })

  it('every bytea column of the database is counted, or is a hash', async () => {
    const columns = await database.sql<{ table: string; column: string }[]>`
      SELECT table_name AS "table", column_name AS "column" FROM information_schema.columns
      WHERE table_schema = 'public' AND data_type = 'bytea'`
    const counted = Object.entries(sealedColumns).flatMap(([table, names]) =>
      names.map((name) => `${table}.${name}`),
    )
    const others = columns
      .map(({ table, column }) => `${table}.${column}`)
      .filter((name) => !counted.includes(name) && !/[._]hash$/.test(name))
    // The check values of the keys themselves are no use of a key.
    expect(others).toEqual(['encryption_key.check'])
    expect(columns.length).toBeGreaterThan(counted.length)
  })
})
