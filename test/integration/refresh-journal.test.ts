import { appendFile, mkdtemp, readFile, rm, stat, truncate } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createAcquisition } from '../../src/acquisition/index.ts'
import type { JournalEvent, JournalRecords } from '../../src/core/ports/journal-records.ts'
import type { KeptRefresh } from '../../src/core/ports/refresh-journal.ts'
import { Secret } from '../../src/core/secret.ts'
import { bindingOf } from '../../src/core/upstream.ts'
import { createHttpClient } from '../../src/outbound/http-client.ts'
import { createCredentialStore } from '../../src/sealing/credential-store.ts'
import { createEnvelope } from '../../src/sealing/envelope.ts'
import { createKeyring, generateKey } from '../../src/sealing/keyring.ts'
import { createRefreshJournal } from '../../src/sealing/refresh-journal.ts'
import { createCredentialRecords } from '../../src/storage/credential-records.ts'
import { openJournalFile } from '../../src/storage/journal-file.ts'
import { startTestBroker, type TestBroker, type TestConfig } from '../support/broker.ts'
import { configOf } from '../support/config-files.ts'

const key = { issuer: 'https://login.example.com', userId: 'ada', upstream: 'files' }

function refresh(name: string, generation = 7): KeptRefresh {
  return {
    key,
    claim: {
      generation,
      nextGeneration: generation + 1,
      leaseEpoch: 3,
      afterLostAnswer: false,
      failCount: 0,
      forced: false,
      refreshToken: new Secret(`CANARY-RT-${name}`),
      scopes: ['files:read'],
    },
    binding: { authorizationServer: 'https://as.example.com', clientId: 'c', resource: undefined },
    answer: new Secret(`{"access_token":"CANARY-AT-${name}"}`),
  }
}

describe('the refresh journal', () => {
  let directory: string
  let file: string
  const logged: JournalEvent[] = []
  let failures = 0
  const keys = [{ id: 'k1', secret: new Secret(generateKey()) }]

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'onbehalf-test-'))
    file = join(directory, 'refresh.journal')
    logged.length = 0
    failures = 0
  })
  afterEach(() => rm(directory, { recursive: true, force: true }))

  const journalOver = (records: JournalRecords) =>
    createRefreshJournal({
      records,
      sealer: createEnvelope(createKeyring(keys)),
      log: { warn: (line) => logged.push(line) },
      onFailure: () => {
        failures += 1
      },
    })

  /** What a process finds that starts on this directory. */
  async function found(): Promise<readonly string[]> {
    const records = await openJournalFile(directory)
    const left = journalOver(records).left()
    await records.close()
    return left.map(({ claim, answer }) => `${claim.refreshToken.reveal()} ${answer.reveal()}`)
  }

  /** Keeps these and ends without a word, as a process that was killed. */
  async function keepAndDie(names: readonly string[]): Promise<void> {
    const records = await openJournalFile(directory)
    const journal = journalOver(records)
    await Promise.all(names.map((name) => journal.keep(refresh(name))))
    await records.close()
  }

  it('gives back what a process kept that was killed, with all that it takes to store it', async () => {
    await keepAndDie(['one', 'two'])
    const records = await openJournalFile(directory)
    const [first] = journalOver(records).left()
    expect(first?.key).toEqual(key)
    expect(first?.claim).toEqual(refresh('one').claim)
    expect(first?.answer.reveal()).toBe(refresh('one').answer.reveal())
    await records.close()
    expect(await found()).toHaveLength(2)
  })

  it('S13, S4: is for its owner alone, and holds no secret in clear', async () => {
    await keepAndDie(['one'])
    expect((await stat(file)).mode & 0o777).toBe(0o600)
    const bytes = await readFile(file, 'latin1')
    expect(bytes).toContain('ada')
    expect(bytes).not.toContain('CANARY')
    expect(bytes).not.toContain(Buffer.from('CANARY').toString('base64').slice(0, 7))
  })

  it('is empty once everything is dropped', async () => {
    const records = await openJournalFile(directory)
    const journal = journalOver(records)
    const entries = await Promise.all(
      ['one', 'two', 'three'].map((name) => journal.keep(refresh(name))),
    )
    entries[0]?.drop()
    entries[1]?.drop()
    await expect.poll(async () => (await stat(file)).size).toBeGreaterThan(0)
    entries[2]?.drop()
    await expect.poll(async () => (await stat(file)).size).toBe(0)
    const again = await journal.keep(refresh('four'))
    expect(again).toBeDefined()
    await records.close()
    expect(await found()).toEqual([expect.stringContaining('four')])
  })

  it('leaves out what was dropped while others stayed', async () => {
    const records = await openJournalFile(directory)
    const journal = journalOver(records)
    const dropped = await journal.keep(refresh('dropped'))
    await journal.keep(refresh('stays'))
    dropped?.drop()
    await records.close()
    expect(await found()).toEqual([expect.stringContaining('stays')])
  })

  it('reads up to what a crash tore, and goes on from there', async () => {
    await keepAndDie(['whole', 'torn'])
    await truncate(file, (await stat(file)).size - 5)
    expect(await found()).toEqual([expect.stringContaining('whole')])
    await appendFile(file, Buffer.from('garbage that is longer than any head'))
    await keepAndDie(['after'])
    expect(await found()).toEqual([
      expect.stringContaining('whole'),
      expect.stringContaining('after'),
    ])
  })

  it('S3: leaves out and reports what was changed, or is of a key that is gone', async () => {
    await keepAndDie(['moved', 'kept'])
    const records = await openJournalFile(directory)
    const [moved, kept] = [...records.left.entries()]
    if (moved === undefined || kept === undefined) throw new Error('nothing was kept')
    const elsewhere = { ...moved[1], key: { ...key, userId: 'grace' } }
    const left = new Map([[moved[0], elsewhere], kept])
    const removed: number[] = []
    const changed = { ...records, left, remove: (id: number) => removed.push(id) }
    expect(journalOver(changed).left()).toHaveLength(1)
    expect(logged).toEqual([{ event: 'refresh_journal_unreadable', records: 1 }])
    expect(removed).toEqual([moved[0]])
    await records.close()
  })

  it('a disk that is full keeps nobody from renewing: logged and counted', async () => {
    const full = {
      left: new Map(),
      append: () => Promise.reject(Object.assign(new Error('full'), { code: 'ENOSPC' })),
      remove() {},
    }
    expect(await journalOver(full).keep(refresh('one'))).toBeUndefined()
    expect(logged).toEqual([{ event: 'refresh_journal_failed', code: 'ENOSPC' }])
    expect(failures).toBe(1)
  })
})

describe('V8: a process that died between the answer and its commit', () => {
  let broker: TestBroker
  beforeEach(async () => {
    broker = await startTestBroker()
  })
  afterEach(() => broker.stop())

  /** Redeems ada's refresh token as a broker of this configuration does, and dies once the answer is in the journal. */
  async function dieAfterAnswer(config: TestConfig): Promise<void> {
    const found = await broker.database.database.sql<{ issuer: string; generation: number }[]>`
      SELECT issuer, generation FROM credential WHERE user_id = 'ada'`
    const [row] = found
    if (row === undefined) throw new Error('ada is not connected')
    const ada = { issuer: row.issuer, userId: 'ada', upstream: 'files' }
    const secret = new Secret(broker.encryptionKey)
    const sealer = createEnvelope(createKeyring([{ id: 'k1', secret }]))
    const records = createCredentialRecords(broker.database.database)
    const store = createCredentialStore({ records, sealer })
    const claim = await store.claimRenewal(ada, row.generation)
    const file = await openJournalFile(config.data_dir)
    const log = { warn() {} }
    const journal = createRefreshJournal({ records: file, sealer, log, onFailure() {} })
    const { upstreams } = await configOf(config)
    const upstream = upstreams.get('files')
    if (claim === undefined || upstream === undefined) throw new Error('nothing to renew')
    const http = createHttpClient()
    const methods = createAcquisition({ http, clock: { now: () => new Date() } }).methods
    await methods.oauth_connect.refresh(upstream, claim.refreshToken, claim.scopes, {
      async keep(answer) {
        const binding = bindingOf(upstream.credential)
        await journal.keep({ key: ada, claim, binding, answer })
      },
    })
    await file.close()
  }

  it('costs nobody a reconnect: whoever starts on its data directory stores what it got', async () => {
    await broker.connect('ada')
    await broker.age('ada', 'files', { expiresInSeconds: -1 })
    let asked = 0
    const next = await broker.startBeside(async (config) => {
      await dieAfterAnswer(config)
      asked = broker.authorizationServer.received('/token').length
    })
    const answer = await next.resolveAs('ada', 'files')
    expect(answer.status).toBe(200)
    expect(broker.authorizationServer.received('/token')).toHaveLength(asked)
    expect(broker.authorizationServer.reuses()).toBe(0)
    const rows = await broker.records(3)
    // Two brokers have them written, whose clocks agree well enough for people only.
    expect(rows.map(({ actor_kind: actor, action }) => `${actor} ${action}`).toSorted()).toEqual([
      'service inject',
      'system refresh',
      'user connect',
    ])
    expect((await stat(join(next.dataDir, 'refresh.journal'))).size).toBe(0)
    await next.stop()
  })

  it('V22: what is left of a connection that was ended meanwhile is revoked, not stored', async () => {
    await broker.connect('ada')
    const next = await broker.startBeside(async (config) => {
      await dieAfterAnswer(config)
      await broker.database.database.sql`DELETE FROM credential WHERE user_id = 'ada'`
    })
    const revoked = () => broker.authorizationServer.received('/token/revocation').length
    await expect.poll(revoked).toBe(1)
    const answer = await next.resolveAs('ada', 'files')
    expect(answer.body).toMatchObject({ code: 'connect_required', reason: 'not_connected' })
    await next.stop()
  })

  it('V22: it is shown to no server that was configured since', async () => {
    await broker.connect('ada')
    const next = await broker.startBeside(async (config) => {
      await dieAfterAnswer(config)
      await broker.database.database.sql`DELETE FROM credential WHERE user_id = 'ada'`
      config.upstreams.files.credential['client_id'] = 'another-client'
    })
    // Its journal is done with before it listens.
    expect((await stat(join(next.dataDir, 'refresh.journal'))).size).toBe(0)
    await next.stop()
    expect(broker.authorizationServer.received('/token/revocation')).toEqual([])
  })
})
