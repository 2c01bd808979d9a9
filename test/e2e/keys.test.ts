import { randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, realpath, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { Secret } from '../../src/core/secret.ts'
import { createCredentialStore } from '../../src/sealing/credential-store.ts'
import { createEnvelope } from '../../src/sealing/envelope.ts'
import { createKeyring } from '../../src/sealing/keyring.ts'
import { createCredentialRecords } from '../../src/storage/credential-records.ts'
import { openJournalFile } from '../../src/storage/journal-file.ts'
import { keyOf, newCredential } from '../contracts/credential-store-contract.ts'
import { fillDataDirectory } from '../support/data-directory.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'
import { ensureBuilt, type ProgramEnd, startProgram } from '../support/program.ts'

vi.setConfig({ testTimeout: 180_000 })
beforeAll(ensureBuilt, 120_000)

const undo: (() => unknown)[] = []
afterEach(async () => {
  for (let last = undo.pop(); last !== undefined; last = undo.pop()) await last()
})

const newKey = (id: string) => ({ id, secret: randomBytes(32).toString('base64') })
const [k1, k2] = [newKey('k1'), newKey('k2')]
type Key = typeof k1

async function workingDirectory(): Promise<string> {
  const directory = await realpath(await mkdtemp(join(os.tmpdir(), 'onbehalf-e2e-')))
  undo.push(() => rm(directory, { recursive: true, force: true, maxRetries: 5 }))
  return directory
}

async function configure(directory: string, keys: readonly Key[], url?: string): Promise<void> {
  const config = {
    public_url: 'http://127.0.0.1:8080',
    listen: { port: 0 },
    data_dir: './data',
    ...(url === undefined ? {} : { database: { url } }),
    encryption: { keys },
    identity: { issuers: [{ issuer: 'http://127.0.0.1:9' }] },
  }
  await writeFile(join(directory, 'onbehalf.yaml'), JSON.stringify(config))
}

function onbehalf(directory: string, ...argv: string[]): Promise<ProgramEnd> {
  const program = startProgram(argv, { cwd: directory })
  undo.push(async () => {
    program.kill('SIGKILL')
    await program.ended
  })
  return program.ended
}

async function statusIn(directory: string): Promise<readonly Record<string, unknown>[]> {
  const { stdout } = await onbehalf(directory, 'keys', 'status', '-o', 'json')
  return (JSON.parse(stdout) as { keys: readonly Record<string, unknown>[] }).keys
}

async function databaseWithPeople(count: number): Promise<TestDatabase> {
  const database = await createTestDatabase()
  undo.push(database.drop)
  const store = storeOf(database, k1)
  for (let at = 0; at < count; at += 1) await store.put(keyOf(`person-${at}`), newCredential('x'))
  return database
}

function storeOf(database: TestDatabase, ...keys: readonly Key[]) {
  const keyring = createKeyring(keys.map(({ id, secret }) => ({ id, secret: new Secret(secret) })))
  const records = createCredentialRecords(database.database)
  return createCredentialStore({ records, sealer: createEnvelope(keyring) })
}

describe('onbehalf keys rewrap', () => {
  it('moves everything, leaves a record, and names the old key as removable; run again it has nothing to do', async () => {
    const database = await databaseWithPeople(3)
    const directory = await workingDirectory()
    await configure(directory, [k2, k1], database.url)
    expect(await onbehalf(directory, 'keys', 'rewrap')).toMatchObject({
      code: 0,
      stdout: 'Moved 3 rows to key k2.\n',
      stderr: '',
    })
    expect(await statusIn(directory)).toEqual([
      { id: 'k2', rows: 6, configured: true, seals: true, removable: false },
      { id: 'k1', rows: 0, configured: true, seals: false, removable: true },
    ])
    expect(await onbehalf(directory, 'keys', 'rewrap')).toMatchObject({
      code: 0,
      stdout: 'Moved 0 rows to key k2.\n',
    })
    const found = await storeOf(database, k2).find(keyOf('person-1'))
    expect(found?.credential?.accessToken.reveal()).toBe('CANARY-AT-x')
    const { sql } = database.database
    const records = await sql`
      SELECT type, actor_kind, outcome, seq FROM activity WHERE action = 'key_rewrap'`
    expect(records).toEqual([
      { type: 'administration', actor_kind: 'system', outcome: 'success', seq: 1 },
      { type: 'administration', actor_kind: 'system', outcome: 'success', seq: 1 },
    ])
  })

  it('uses the embedded database of the broker that runs', async () => {
    const directory = await workingDirectory()
    await configure(directory, [k2, k1])
    await fillDataDirectory(join(directory, 'data'))
    const broker = startProgram(['serve'], { cwd: directory })
    undo.push(async () => {
      broker.kill('SIGTERM')
      await broker.ended
    })
    await broker.ready()
    expect(await onbehalf(directory, 'keys', 'rewrap')).toMatchObject({ code: 0, stderr: '' })
    broker.kill('SIGTERM')
    expect((await broker.ended).code).toBe(0)
  })

  it('exits 1 and says so where values do not open, and records that', async () => {
    const database = await databaseWithPeople(2)
    const { sql } = database.database
    await sql`UPDATE credential SET refresh_token = access_token WHERE user_id = 'person-1'`
    const directory = await workingDirectory()
    await configure(directory, [k2, k1], database.url)
    const { code, stdout, stderr } = await onbehalf(directory, 'keys', 'rewrap')
    expect({ code, stderr }).toMatchObject({ code: 1 })
    expect({ stdout, stderr }).toMatchObject({ stdout: 'Moved 2 rows to key k2.\n' })
    expect(stderr).toMatch(/^1 value does not open/)
    const [record] = await sql`SELECT outcome, reason FROM activity WHERE action = 'key_rewrap'`
    expect(record).toEqual({ outcome: 'failure', reason: 'credential_corrupt' })
    expect((await statusIn(directory))[1]).toMatchObject({ id: 'k1', rows: 1, removable: false })
  })

  it('exits 2 and changes nothing with keys that a start would refuse, 1 without a database, 2 for wrong usage', async () => {
    const database = await databaseWithPeople(1)
    const directory = await workingDirectory()
    await configure(directory, [k2], database.url)
    const refused = await onbehalf(directory, 'keys', 'rewrap')
    expect(refused).toMatchObject({ code: 2, stdout: '' })
    expect(refused.stderr).toContain('key id "k1" is missing, and 1 row uses it')
    expect(await database.database.sql`SELECT FROM activity`).toHaveLength(0)
    expect(await onbehalf(directory, 'keys', 'rewrap', 'now')).toMatchObject({ code: 2 })
    await configure(directory, [k1], 'postgres://127.0.0.1:9/nothing')
    expect(await onbehalf(directory, 'keys', 'rewrap')).toMatchObject({ code: 1, stdout: '' })
  })

  it('a key under which an answer waits in the refresh journal is not removable', async () => {
    const database = await databaseWithPeople(1)
    const directory = await workingDirectory()
    await configure(directory, [k2, k1], database.url)
    expect((await onbehalf(directory, 'keys', 'rewrap')).code).toBe(0)
    const keyring = createKeyring([{ id: k1.id, secret: new Secret(k1.secret) }])
    const key = keyOf('person-0')
    const place = { table: 'refresh_journal', field: 'answer', ...key, generation: 1 } as const
    const sealed = createEnvelope(keyring).seal(new Secret('an answer'), place)
    await mkdir(join(directory, 'data'), { mode: 0o700, recursive: true })
    const journal = await openJournalFile(join(directory, 'data'))
    await journal.append({ key, generation: 1, sealed })
    await journal.close()
    expect((await statusIn(directory))[1]).toMatchObject({ id: 'k1', rows: 0, removable: false })
    await configure(directory, [k2], database.url)
    const refused = await onbehalf(directory, 'serve')
    expect(refused.code).toBe(2)
    expect(refused.stderr).toContain('key id "k1" is missing, and 1 answer')
  })
})
