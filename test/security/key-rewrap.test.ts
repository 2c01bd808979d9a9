import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { CredentialStore } from '../../src/core/ports/credential-store.ts'
import type { SealedRows } from '../../src/core/ports/sealed-rows.ts'
import type { SealingContext } from '../../src/core/ports/sealer.ts'
import { Secret } from '../../src/core/secret.ts'
import { createCredentialStore } from '../../src/sealing/credential-store.ts'
import { createEnvelope } from '../../src/sealing/envelope.ts'
import type { RewrapReport } from '../../src/core/ports/key-reports.ts'
import { createKeyCheck } from '../../src/sealing/key-check.ts'
import { createKeyRewrap } from '../../src/sealing/key-rewrap.ts'
import { createKeyring, generateKey } from '../../src/sealing/keyring.ts'
import { createCredentialRecords } from '../../src/storage/credential-records.ts'
import type { Database } from '../../src/storage/database.ts'
import { createEncryptionKeyRecords } from '../../src/storage/encryption-key-records.ts'
import { createSealedRows } from '../../src/storage/sealed-rows.ts'
import { keyOf, newCredential, tokenSet } from '../contracts/credential-store-contract.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { insertSealedRow, sealedFields } from '../support/sealed-rows.ts'

type Key = { readonly id: string; readonly secret: Secret }

const newKey = (id: string): Key => ({ id, secret: new Secret(generateKey()) })
const [k1, k2, lost] = [newKey('k1'), newKey('k2'), newKey('lost')]

let testDatabase: TestDatabase
let database: Database
beforeEach(async () => {
  testDatabase = await createTestDatabase()
  database = testDatabase.database
})
afterEach(() => testDatabase.drop())

function storeOf(...keys: Key[]): CredentialStore {
  const sealer = createEnvelope(createKeyring(keys))
  return createCredentialStore({ records: createCredentialRecords(database), sealer })
}

function checkOf(...keys: Key[]) {
  const records = createEncryptionKeyRecords(database)
  return createKeyCheck({
    keyring: createKeyring(keys),
    records,
    journal: () => Promise.resolve([]),
  })
}

/** Rewraps with k2 first; `around` may come between it and the rows. */
async function rewrap(
  options: {
    readonly keys?: readonly Key[]
    readonly around?: (rows: SealedRows) => SealedRows
    readonly signal?: AbortSignal
    readonly onProgress?: (rows: number, rowsToMove: number) => void
  } = {},
): Promise<RewrapReport> {
  const keyring = createKeyring(options.keys ?? [k2, k1])
  const rows = createSealedRows(database)
  return createKeyRewrap({
    keyring,
    sealer: createEnvelope(keyring),
    rows: options.around?.(rows) ?? rows,
    records: createEncryptionKeyRecords(database),
    pause: () => Promise.resolve(),
    elapsedMs: () => 0,
  }).run({
    signal: options.signal ?? new AbortController().signal,
    onProgress: options.onProgress ?? (() => {}),
  })
}

/** Does something once, right before the first batch is written. */
function beforeFirstBatch(act: () => Promise<unknown>): (rows: SealedRows) => SealedRows {
  let done = false
  return (rows) => ({
    ...rows,
    async replace(table, changes) {
      if (!done) {
        done = true
        await act()
      }
      return rows.replace(table, changes)
    },
  })
}

async function rowsOf(...keys: Key[]): Promise<Record<string, number>> {
  const status = await checkOf(...keys).status()
  return Object.fromEntries(status.map(({ id, rows }) => [id, rows]))
}

/** People with a credential each, sealed under k1. */
async function putPeople(count: number): Promise<readonly string[]> {
  const names = Array.from({ length: count }, (_, at) => `person-${String(at).padStart(4, '0')}`)
  const store = storeOf(k1)
  await Promise.all(names.map((name) => store.put(keyOf(name), newCredential(name))))
  return names
}

async function expectAllToOpen(names: readonly string[], ...keys: Key[]): Promise<void> {
  const store = storeOf(...keys)
  for (const name of names) {
    const found = await store.find(keyOf(name))
    expect(found?.credential?.accessToken.reveal()).toBe(`CANARY-AT-${name}`)
    const claim = await store.claimRenewal(keyOf(name), found?.credential?.generation ?? -1)
    expect(claim?.refreshToken.reveal()).toBe(`CANARY-RT-${name}`)
  }
}

describe('S6: keys rewrap', () => {
  it('moves every sealed value of every table, which then opens where it stands without the old key', async () => {
    const old = createEnvelope(createKeyring([k1]))
    const contexts: SealingContext[] = []
    for (const table of Object.keys(sealedFields)) {
      contexts.push(
        ...(await insertSealedRow(database, table, (context) =>
          old.seal(new Secret(`text of ${context.table}.${context.field}`), context),
        )),
      )
    }
    const report = await rewrap()
    expect(report).toEqual({
      keyId: 'k2',
      rows: Object.keys(sealedFields).length,
      unopened: 0,
      end: 'done',
    })
    expect(await rowsOf(k2, k1)).toEqual({ k1: 0, k2: contexts.length })
    const fresh = createEnvelope(createKeyring([k2]))
    for (const context of contexts) {
      const { table, field } = context
      const [row] = await database.sql<{ sealed: Buffer }[]>`
        SELECT ${database.sql(field)} AS sealed FROM ${database.sql(table)}`
      expect(fresh.open(row?.sealed ?? Buffer.alloc(0), context).reveal()).toBe(
        `text of ${table}.${field}`,
      )
    }
  })

  it('goes through more rows than one batch, says how far it is, and leaves nothing', async () => {
    const names = await putPeople(450)
    const progress: string[] = []
    const report = await rewrap({ onProgress: (rows, of) => progress.push(`${rows} of ${of}`) })
    expect(report).toMatchObject({ rows: 450, end: 'done' })
    expect(progress).toEqual(['200 of 450', '400 of 450', '450 of 450'])
    expect(await rowsOf(k2, k1)).toEqual({ k1: 0, k2: 900 })
    await expectAllToOpen(names.slice(195, 205), k2)
    await checkOf(k2).verify()
  })

  it('changes nothing but the bytes, and nothing at all the second time', async () => {
    await putPeople(3)
    const before = await database.sql`
      SELECT user_id, generation, status, scopes, expires_at, obtained_at FROM credential ORDER BY 1`
    await rewrap()
    expect(
      await database.sql`
        SELECT user_id, generation, status, scopes, expires_at, obtained_at FROM credential ORDER BY 1`,
    ).toEqual(before)
    const bytes =
      await database.sql`SELECT access_token, refresh_token FROM credential ORDER BY user_id`
    expect(await rewrap()).toMatchObject({ rows: 0, end: 'done' })
    expect(
      await database.sql`SELECT access_token, refresh_token FROM credential ORDER BY user_id`,
    ).toEqual(bytes)
  })

  it('never overwrites a refresh that comes between its look and its write, and keeps that one', async () => {
    await putPeople(2)
    const broker = storeOf(k1, k2)
    const key = keyOf('person-0000')
    const refresh = async () => {
      const generation = (await broker.find(key))?.credential?.generation ?? -1
      const claim = await broker.claimRenewal(key, generation)
      if (claim === undefined) throw new Error('no claim')
      await broker.commitRenewal(key, claim, { tokens: tokenSet('renewed'), scopes: [] })
    }
    const report = await rewrap({ around: beforeFirstBatch(refresh) })
    // The renewed row was sealed under the old key by a broker that still has that one first: found in the next round.
    expect(report).toMatchObject({ rows: 2, unopened: 0, end: 'done' })
    const found = await storeOf(k2).find(key)
    expect(found?.credential?.accessToken.reveal()).toBe('CANARY-AT-renewed')
    await expectAllToOpen(['person-0001'], k2)
  })

  it('a refresh that is under way meanwhile lands: the claim before it, the commit after it', async () => {
    await putPeople(1)
    const broker = storeOf(k1, k2)
    const key = keyOf('person-0000')
    const generation = (await broker.find(key))?.credential?.generation ?? -1
    const claim = await broker.claimRenewal(key, generation)
    if (claim === undefined) throw new Error('no claim')
    await rewrap()
    const renewed = { tokens: tokenSet('renewed', { refreshToken: undefined }), scopes: [] }
    expect(await broker.commitRenewal(key, claim, renewed)).toBeDefined()
    expect((await broker.find(key))?.credential?.accessToken.reveal()).toBe('CANARY-AT-renewed')
    await rewrap()
    expect(await rowsOf(k2, k1)).toEqual({ k1: 0, k2: 2 })
  })

  it('leaves a row alone that somebody holds, and comes back for it', async () => {
    await putPeople(3)
    const held = database.sql.reserve()
    const release = async () => {
      const connection = await held
      await connection`ROLLBACK`
      connection.release()
    }
    let rounds = 0
    const report = await rewrap({
      around: (rows) => ({
        ...rows,
        async replace(table, changes) {
          rounds += 1
          const connection = await held
          if (rounds === 1) {
            await connection`BEGIN`
            await connection`SELECT FROM credential WHERE user_id = 'person-0001' FOR UPDATE`
          }
          const changed = await rows.replace(table, changes)
          if (rounds === 1) {
            expect(changed).toBe(2)
            await release()
          }
          return changed
        },
      }),
    })
    expect(report).toMatchObject({ rows: 3, end: 'done' })
    expect(rounds).toBe(2)
  })

  it('a row that disappears meanwhile stays away', async () => {
    await putPeople(2)
    const disconnect = () => storeOf(k1).take(keyOf('person-0000'))
    expect(await rewrap({ around: beforeFirstBatch(disconnect) })).toMatchObject({
      rows: 1,
      end: 'done',
    })
    expect(await storeOf(k2).find(keyOf('person-0000'))).toBeUndefined()
  })

  it('stopped in the middle it has broken nothing, and the next run goes on from there', async () => {
    const names = await putPeople(450)
    const abort = new AbortController()
    const stopped = await rewrap({ signal: abort.signal, onProgress: () => abort.abort() })
    expect(stopped).toMatchObject({ rows: 200, end: 'stopped' })
    await expectAllToOpen(names.slice(198, 202), k2, k1)
    expect(await rewrap()).toMatchObject({ rows: 250, end: 'done' })
  })

  it('two at once move every row once, and neither fails', async () => {
    await putPeople(450)
    const reports = await Promise.all([rewrap(), rewrap()])
    expect(reports.map(({ end }) => end)).toEqual(['done', 'done'])
    expect(reports.reduce((sum, { rows }) => sum + rows, 0)).toBe(450)
    expect(await rowsOf(k2, k1)).toEqual({ k1: 0, k2: 900 })
  })

  it('S1: what does not open where it stands is left as it is and counted; it does not become good by being moved', async () => {
    await putPeople(3)
    await database.sql`
      UPDATE credential SET access_token = (
        SELECT access_token FROM credential WHERE user_id = 'person-0001') WHERE user_id = 'person-0000'`
    await database.sql`UPDATE credential SET refresh_token = 'plain'::bytea WHERE user_id = 'person-0002'`
    expect(await rewrap()).toMatchObject({ rows: 3, unopened: 2, end: 'done' })
    const [swapped] = await database.sql<{ access_token: Buffer }[]>`
      SELECT access_token FROM credential WHERE user_id = 'person-0000'`
    expect(swapped?.access_token.subarray(3, 5).toString()).toBe('k1')
    await expect(storeOf(k2, k1).find(keyOf('person-0000'))).rejects.toThrow()
    // The key stays until nothing is left under it.
    expect(await checkOf(k2, k1).status()).toMatchObject([
      { id: 'k2' },
      { id: 'k1', removable: false },
    ])
  })

  it('gives up, and says so, where a broker goes on sealing under another key', async () => {
    await putPeople(1)
    let calls = 0
    const report = await rewrap({
      around: (rows) => ({
        ...rows,
        async replace(table, changes) {
          const changed = await rows.replace(table, changes)
          calls += 1
          await storeOf(k1).put(keyOf(`late-${calls}`), newCredential('late'))
          return changed
        },
      }),
    })
    expect(report.end).toBe('outrun')
  })

  it('forgets the check value of a key that is neither configured nor used, and of no other', async () => {
    await checkOf(k1, k2, lost).verify()
    await putPeople(1)
    await storeOf(lost).put(keyOf('lost'), newCredential('lost'))
    const ids = async () =>
      (await database.sql<{ id: string }[]>`SELECT id FROM encryption_key ORDER BY id`).map(
        ({ id }) => id,
      )
    await rewrap()
    expect(await ids()).toEqual(['k1', 'k2', 'lost'])
    await storeOf(lost).take(keyOf('lost'))
    await rewrap({ keys: [k2] })
    expect(await ids()).toEqual(['k2'])
    await checkOf(newKey('k1'), k2).verify()
  })
})
