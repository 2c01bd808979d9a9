import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { CredentialKey } from '../../src/core/credential.ts'
import type { ConnectStore, NewFlow, NewTicket } from '../../src/core/ports/connect-store.ts'
import { Secret } from '../../src/core/secret.ts'
import { createConnectStore } from '../../src/sealing/connect-store.ts'
import { createEnvelope } from '../../src/sealing/envelope.ts'
import { createKeyring, generateKey } from '../../src/sealing/keyring.ts'
import { createConnectRecords } from '../../src/storage/connect-records.ts'
import type { Database } from '../../src/storage/database.ts'
import { createTestDatabase, type TestDatabase } from '../support/database.ts'

const issuer = 'https://login.example.com'
const keys = [{ id: 'k1', secret: new Secret(generateKey()) }]
const binding = {
  authorizationServer: 'https://as.example.com',
  clientId: 'onbehalf',
  resource: 'https://files.example.com/mcp',
}

let testDatabase: TestDatabase
let database: Database
let store: ConnectStore
let replica: ConnectStore
let people = 0

beforeAll(async () => {
  testDatabase = await createTestDatabase()
  database = testDatabase.database
  store = openStore()
  replica = openStore()
})
afterAll(() => testDatabase.drop())

function openStore(): ConnectStore {
  const records = createConnectRecords(database)
  return createConnectStore({ records, sealer: createEnvelope(createKeyring(keys)) })
}

function somebody(upstream = 'files'): CredentialKey {
  return { issuer, userId: `person-${++people}`, upstream }
}

function ticketFor(key: CredentialKey, changes: Partial<NewTicket> = {}): NewTicket {
  return {
    ...key,
    returnTo: undefined,
    scopes: ['files:read', 'files:write'],
    claims: undefined,
    ...changes,
  }
}

function flowFor(key: CredentialKey, name: string, changes: Partial<NewFlow> = {}): NewFlow {
  return {
    ...key,
    state: `state-${key.userId}-${name}`,
    browser: `browser-${name}`,
    returnTo: '/connections',
    scopes: ['files:read'],
    codeVerifier: new Secret(`CANARY-verifier-${name}`),
    expectedIssuer: 'https://as.example.com',
    issuerRequired: true,
    binding,
    ...changes,
  }
}

/** Moves a person's links and flows into the past. */
async function pass(key: CredentialKey, seconds: number): Promise<void> {
  const by = `${seconds} seconds`
  await database.sql`
    UPDATE connect_ticket SET created_at = created_at - ${by}::interval, expires_at = expires_at - ${by}::interval,
      used_at = used_at - ${by}::interval
    WHERE user_id = ${key.userId}`
  await database.sql`
    UPDATE connect_flow SET expires_at = expires_at - ${by}::interval WHERE user_id = ${key.userId}`
}

async function rowsOf(key: CredentialKey): Promise<number> {
  const [row] = await database.sql<[{ rows: number }]>`
    SELECT count(*) AS rows FROM connect_ticket WHERE user_id = ${key.userId}`
  return row.rows
}

async function isOpen(ticket: Secret): Promise<boolean> {
  const found = await replica.findTicket(ticket.reveal())
  return found?.isOver === false
}

async function opened(key: CredentialKey, flow: NewFlow): Promise<void> {
  const { ticket } = await store.issueTicket(ticketFor(key))
  expect(await store.beginFlow(ticket.reveal(), flow)).toBe(true)
}

describe('issueTicket and findTicket', () => {
  it('gives a 256-bit random link for 10 minutes that every replica finds', async () => {
    const key = somebody()
    const claims = new Secret('{"access_token":{"acrs":{"value":"c1"}}}')
    const issued = await store.issueTicket(
      ticketFor(key, { returnTo: 'https://app.example.com/done?x=1', claims }),
    )
    expect(issued.ticket.reveal()).toMatch(/^[A-Za-z0-9_-]{43}$/)
    const lifeMs = issued.expiresAt.getTime() - Date.now()
    expect(lifeMs).toBeGreaterThan(9 * 60_000)
    expect(lifeMs).toBeLessThan(11 * 60_000)
    const found = await replica.findTicket(issued.ticket.reveal())
    expect(found).toEqual({
      ...key,
      returnTo: 'https://app.example.com/done?x=1',
      scopes: ['files:read', 'files:write'],
      claims,
      isOver: false,
    })
    expect(found?.claims?.reveal()).toBe(claims.reveal())
  })

  it('gives another link each time', async () => {
    const key = somebody()
    const issued = await Promise.all(
      Array.from({ length: 5 }, () => store.issueTicket(ticketFor(key))),
    )
    expect(new Set(issued.map(({ ticket }) => ticket.reveal())).size).toBe(5)
  })

  it('keeps neither the link nor the claims in clear', async () => {
    const key = somebody()
    const claims = new Secret('CANARY-claims')
    const { ticket } = await store.issueTicket(ticketFor(key, { claims }))
    const offered = await store.offerTicket(ticketFor(key, { claims }))
    const [row] = await database.sql<[{ text: string }]>`
      SELECT string_agg(connect_ticket::text, '|') AS text FROM connect_ticket WHERE user_id = ${key.userId}`
    expect(row.text).toContain(key.userId)
    for (const secret of [ticket.reveal(), offered.ticket.reveal(), claims.reveal()]) {
      expect(row.text).not.toContain(secret)
      expect(row.text).not.toContain(Buffer.from(secret).toString('hex'))
    }
  })

  it.each([
    ['nothing', ''],
    ['what was never issued', 'A'.repeat(43)],
    ['what is no ticket', '../../etc/passwd'],
    ['a megabyte', 'A'.repeat(1_000_000)],
    ['a NUL', `${'A'.repeat(42)}\u0000`],
    ['the hash of a ticket', 'q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA'],
  ])('finds nothing for %s', async (_name, ticket) => {
    expect(await store.findTicket(ticket)).toBeUndefined()
    const key = somebody()
    expect(await store.beginFlow(ticket, flowFor(key, 'none'))).toBe(false)
  })

  it('shows a used and an ended link until a day after its end', async () => {
    const [used, ended] = [somebody(), somebody()]
    const first = await store.issueTicket(ticketFor(used))
    await store.beginFlow(first.ticket.reveal(), flowFor(used, 'used'))
    expect((await store.findTicket(first.ticket.reveal()))?.isOver).toBe(true)
    const second = await store.issueTicket(ticketFor(ended))
    await pass(ended, 601)
    const found = await store.findTicket(second.ticket.reveal())
    expect(found?.isOver).toBe(true)
    await pass(ended, 24 * 3600)
    expect(await store.findTicket(second.ticket.reveal())).toBeUndefined()
  })

  it('the eleventh open link ends the oldest, which is still found', async () => {
    const key = somebody()
    const issued: Secret[] = []
    for (let round = 0; round < 11; round += 1) {
      await pass(key, 1)
      issued.push((await store.issueTicket(ticketFor(key))).ticket)
    }
    const open = await Promise.all(issued.map(isOpen))
    expect(open).toEqual([false, ...Array.from({ length: 10 }, () => true)])
    const [oldest] = issued
    const found = await store.findTicket(oldest?.reveal() ?? '')
    expect(found).toMatchObject({ ...key, isOver: true })
    expect(await store.beginFlow(oldest?.reveal() ?? '', flowFor(key, 'oldest'))).toBe(false)
  })

  it('counts what is open over all upstreams of the person, and nobody else’s', async () => {
    const [key, other] = [somebody(), somebody()]
    const oldest = await store.issueTicket(ticketFor({ ...key, upstream: 'mail' }))
    const others = await store.issueTicket(ticketFor(other))
    await pass(key, 5)
    for (let round = 0; round < 9; round += 1) await store.issueTicket(ticketFor(key))
    expect(await isOpen(oldest.ticket)).toBe(true)
    await store.issueTicket(ticketFor(key))
    expect(await isOpen(oldest.ticket)).toBe(false)
    expect(await isOpen(others.ticket)).toBe(true)
  })

  it('does not count what is used or ended', async () => {
    const key = somebody()
    const oldest = await store.issueTicket(ticketFor(key))
    await pass(key, 60)
    for (let round = 0; round < 20; round += 1) {
      const { ticket } = await store.issueTicket(ticketFor(key))
      await store.beginFlow(ticket.reveal(), flowFor(key, `round-${round}`))
    }
    expect(await isOpen(oldest.ticket)).toBe(true)
  })

  it('C23: keeps 100 ended links of a person, the newest, and every open one', async () => {
    const [key, other] = [somebody(), somebody()]
    const open = await store.issueTicket(ticketFor(key))
    const others = await store.issueTicket(ticketFor(other))
    await pass(key, 60)
    await database.sql`
      INSERT INTO connect_ticket (ticket_hash, issuer, user_id, upstream, scopes, created_at, expires_at, used_at)
      SELECT sha256(${key.userId}::bytea || int4send(n)), ${key.issuer}, ${key.userId}, ${key.upstream}, '{}',
        now() - make_interval(secs => n), now() + interval '5 minutes', now()
      FROM generate_series(1, 500) AS n`
    await store.issueTicket(ticketFor(key))
    const [kept] = await database.sql<{ ended: number; oldest: number }[]>`
      SELECT count(*)::int AS ended, max(extract(epoch FROM now() - created_at))::int AS oldest
      FROM connect_ticket WHERE user_id = ${key.userId} AND used_at IS NOT NULL`
    expect(kept?.ended).toBe(100)
    expect(kept?.oldest).toBeLessThan(200)
    expect(await isOpen(open.ticket)).toBe(true)
    expect(await isOpen(others.ticket)).toBe(true)
  })

  it('leaves ten open of sixty that are asked for at once over two replicas', async () => {
    const key = somebody()
    const issued = await Promise.all(
      Array.from({ length: 60 }, (_, at) =>
        (at % 2 === 0 ? store : replica).issueTicket(ticketFor(key)),
      ),
    )
    const open = await Promise.all(issued.map(({ ticket }) => isOpen(ticket)))
    expect(open.filter(Boolean)).toHaveLength(10)
  })
})

describe('offerTicket', () => {
  it('gives the same link again for the same person, upstream, scopes and claims', async () => {
    const key = somebody()
    const first = await store.offerTicket(ticketFor(key))
    const again = await replica.offerTicket(
      ticketFor(key, { scopes: ['files:write', 'files:read'] }),
    )
    expect(again.ticket.reveal()).toBe(first.ticket.reveal())
    expect(again.expiresAt).toEqual(first.expiresAt)
    expect(await rowsOf(key)).toBe(1)
    expect(await store.findTicket(first.ticket.reveal())).toMatchObject({
      ...key,
      returnTo: undefined,
      scopes: ['files:read', 'files:write'],
    })
  })

  it('gives other links for anything else', async () => {
    const key = somebody()
    const wanted = [
      ticketFor(key),
      ticketFor({ ...key, upstream: 'mail' }),
      ticketFor({ ...key, issuer: 'https://login.example.org' }),
      ticketFor({ ...key, userId: `${key.userId}0` }),
      ticketFor(key, { scopes: ['files:read'] }),
      ticketFor(key, { scopes: ['files:read', 'files:write', 'files:admin'] }),
      ticketFor(key, { scopes: [] }),
      ticketFor(key, { claims: new Secret('one') }),
      ticketFor(key, { claims: new Secret('two') }),
    ]
    const offered = await Promise.all(wanted.map((one) => store.offerTicket(one)))
    expect(new Set(offered.map(({ ticket }) => ticket.reveal())).size).toBe(wanted.length)
    for (const [at, one] of wanted.entries()) {
      const again = await replica.offerTicket(one)
      expect(again.ticket.reveal()).toBe(offered[at]?.ticket.reveal())
      const found = await store.findTicket(again.ticket.reveal())
      expect(found).toMatchObject({
        issuer: one.issuer,
        userId: one.userId,
        upstream: one.upstream,
      })
      expect(found?.claims?.reveal()).toBe(one.claims?.reveal())
    }
  })

  it('200 refused calls at once share one link, one row and one statement', async () => {
    const key = somebody()
    const before = database.statementCount()
    const offered = await Promise.all(
      Array.from({ length: 200 }, () => store.offerTicket(ticketFor(key))),
    )
    expect(database.statementCount() - before).toBe(1)
    expect(new Set(offered.map(({ ticket }) => ticket.reveal())).size).toBe(1)
    expect(await rowsOf(key)).toBe(1)
  })

  it('keeps every link good that it gave within the last minute', async () => {
    const key = somebody()
    const first = await store.offerTicket(ticketFor(key))
    await pass(key, 8 * 60 + 30)
    expect((await store.offerTicket(ticketFor(key))).ticket.reveal()).toBe(first.ticket.reveal())
    await pass(key, 40)
    const second = await replica.offerTicket(ticketFor(key))
    expect(second.ticket.reveal()).not.toBe(first.ticket.reveal())
    expect(await isOpen(first.ticket)).toBe(true)
    expect(await store.beginFlow(first.ticket.reveal(), flowFor(key, 'late'))).toBe(true)
    expect((await store.offerTicket(ticketFor(key))).ticket.reveal()).toBe(second.ticket.reveal())
    expect(await rowsOf(key)).toBe(2)
  })

  it('gives a new one once the old one was used', async () => {
    const key = somebody()
    const first = await store.offerTicket(ticketFor(key))
    await store.beginFlow(first.ticket.reveal(), flowFor(key, 'used'))
    expect((await store.offerTicket(ticketFor(key))).ticket.reveal()).not.toBe(
      first.ticket.reveal(),
    )
  })

  it('never gives out, counts or ends a link that the person asked for', async () => {
    const key = somebody()
    const asked = await store.issueTicket(ticketFor(key))
    await pass(key, 5)
    const offered = await store.offerTicket(ticketFor(key))
    expect(offered.ticket.reveal()).not.toBe(asked.ticket.reveal())
    for (let round = 0; round < 15; round += 1) {
      await store.offerTicket(ticketFor(key, { scopes: [`scope-${round}`] }))
    }
    expect(await isOpen(asked.ticket)).toBe(true)
    for (let round = 0; round < 12; round += 1) await store.issueTicket(ticketFor(key))
    expect(await isOpen(offered.ticket)).toBe(true)
    expect(await isOpen(asked.ticket)).toBe(false)
  })

  it('makes a new one where the stored one does not open', async () => {
    const key = somebody()
    const first = await store.offerTicket(ticketFor(key))
    await database.sql`
      UPDATE connect_ticket SET sealed_ticket = 'CANARY'::bytea WHERE user_id = ${key.userId}`
    const second = await store.offerTicket(ticketFor(key))
    expect(second.ticket.reveal()).not.toBe(first.ticket.reveal())
    expect(await isOpen(second.ticket)).toBe(true)
  })
})

describe('beginFlow', () => {
  it('uses a link up once, however many confirm at once', async () => {
    const key = somebody()
    const { ticket } = await store.issueTicket(ticketFor(key))
    const begun = await Promise.all(
      Array.from({ length: 20 }, (_, at) =>
        (at % 2 === 0 ? store : replica).beginFlow(ticket.reveal(), flowFor(key, `crowd-${at}`)),
      ),
    )
    expect(begun.filter(Boolean)).toHaveLength(1)
    const [row] = await database.sql<[{ flows: number }]>`
      SELECT count(*) AS flows FROM connect_flow WHERE user_id = ${key.userId}`
    expect(row.flows).toBe(1)
  })

  it('leaves a link to its own person and upstream, and good after a wrong person tried', async () => {
    const key = somebody()
    const { ticket } = await store.issueTicket(ticketFor(key))
    for (const wrong of [
      { ...key, userId: `${key.userId}b` },
      { ...key, userId: key.userId.slice(0, -1) },
      { ...key, issuer: 'https://login.example.org' },
      { ...key, upstream: 'mail' },
    ]) {
      expect(await store.beginFlow(ticket.reveal(), flowFor(wrong, 'wrong'))).toBe(false)
    }
    expect(await isOpen(ticket)).toBe(true)
    expect(await store.beginFlow(ticket.reveal(), flowFor(key, 'own'))).toBe(true)
  })

  it('refuses a link after 10 minutes', async () => {
    const key = somebody()
    const { ticket } = await store.issueTicket(ticketFor(key))
    await pass(key, 601)
    expect(await store.beginFlow(ticket.reveal(), flowFor(key, 'late'))).toBe(false)
  })

  it('takes flows that nobody finished away with the next ones', async () => {
    const [left, key] = [somebody(), somebody()]
    for (const name of ['a', 'b', 'c']) {
      const { ticket } = await store.issueTicket(ticketFor(left))
      await store.beginFlow(ticket.reveal(), flowFor(left, name))
    }
    await database.sql`UPDATE connect_flow SET expires_at = now() - interval '1 second' WHERE user_id = ${left.userId}`
    const { ticket } = await store.issueTicket(ticketFor(key))
    expect(await store.beginFlow(ticket.reveal(), flowFor(key, 'next'))).toBe(true)
    const rows = await database.sql`SELECT FROM connect_flow WHERE user_id = ${left.userId}`
    expect(rows).toHaveLength(0)
  })

  it('opens several flows of one person side by side', async () => {
    const key = somebody()
    await opened(key, flowFor(key, 'one'))
    await opened(key, flowFor(key, 'two'))
    const verifiers = await Promise.all(
      ['one', 'two'].map((name) => replica.takeFlow(flowFor(key, name))),
    )
    expect(verifiers.map((flow) => flow?.codeVerifier.reveal())).toEqual([
      'CANARY-verifier-one',
      'CANARY-verifier-two',
    ])
  })
})

describe('useTicket', () => {
  it('uses a link up once, for its own person, while it is open', async () => {
    const key = somebody()
    const { ticket } = await store.offerTicket(ticketFor(key))
    const link = ticket.reveal()
    for (const wrong of [
      somebody(),
      { ...key, upstream: 'mail' },
      { ...key, issuer: 'https://x' },
    ]) {
      expect(await store.useTicket(link, wrong)).toBe(false)
    }
    const used = await Promise.all(
      Array.from({ length: 10 }, (_, at) => (at % 2 === 0 ? store : replica).useTicket(link, key)),
    )
    expect(used.filter(Boolean)).toHaveLength(1)
    expect(await isOpen(ticket)).toBe(false)
    const late = await store.issueTicket(ticketFor(key))
    await pass(key, 601)
    expect(await store.useTicket(late.ticket.reveal(), key)).toBe(false)
    expect(await store.useTicket('nothing', key)).toBe(false)
  })
})

describe('takeFlow', () => {
  it('gives back what was begun, on another replica, once', async () => {
    const key = somebody()
    const flow = flowFor(key, 'whole')
    await opened(key, flow)
    const { state, browser } = flow
    const taken = await replica.takeFlow({ ...key, state, browser })
    expect(taken).toEqual({
      ...key,
      returnTo: '/connections',
      scopes: ['files:read'],
      codeVerifier: flow.codeVerifier,
      expectedIssuer: 'https://as.example.com',
      issuerRequired: true,
      binding,
    })
    expect(taken?.codeVerifier.reveal()).toBe('CANARY-verifier-whole')
    expect(await store.takeFlow({ ...key, state, browser })).toBeUndefined()
  })

  it('keeps absent what is absent', async () => {
    const key = somebody()
    const flow = flowFor(key, 'bare', {
      returnTo: undefined,
      scopes: [],
      expectedIssuer: undefined,
      issuerRequired: false,
      binding: { ...binding, resource: undefined },
    })
    await opened(key, flow)
    expect(await store.takeFlow(flow)).toMatchObject({
      returnTo: undefined,
      scopes: [],
      expectedIssuer: undefined,
      issuerRequired: false,
      binding: { resource: undefined },
    })
  })

  it('M-N3: finds nothing for an unknown, an ended and a reused state', async () => {
    const key = somebody()
    const flow = flowFor(key, 'once')
    expect(await store.takeFlow(flow)).toBeUndefined()
    await opened(key, flow)
    expect(await store.takeFlow(flow)).toBeDefined()
    expect(await store.takeFlow(flow)).toBeUndefined()
    const late = flowFor(key, 'late')
    await opened(key, late)
    await pass(key, 601)
    expect(await store.takeFlow(late)).toBeUndefined()
  })

  it('does not let the holder of a stolen state use it up', async () => {
    const key = somebody()
    const flow = flowFor(key, 'stolen')
    await opened(key, flow)
    for (const wrong of [
      { ...flow, browser: 'another browser' },
      { ...flow, browser: '' },
      { ...flow, userId: `${key.userId}b` },
      { ...flow, userId: key.userId.slice(0, -1) },
      { ...flow, issuer: 'https://login.example.org' },
      { ...flow, upstream: 'mail' },
      { ...flow, state: `${flow.state} ` },
    ]) {
      expect(await store.takeFlow(wrong)).toBeUndefined()
    }
    expect((await store.takeFlow(flow))?.codeVerifier.reveal()).toBe('CANARY-verifier-stolen')
  })

  it('gives a flow to one of many callbacks at once', async () => {
    const key = somebody()
    const flow = flowFor(key, 'crowd')
    await opened(key, flow)
    const taken = await Promise.all(
      Array.from({ length: 20 }, (_, at) => (at % 2 === 0 ? store : replica).takeFlow(flow)),
    )
    expect(taken.filter((one) => one !== undefined)).toHaveLength(1)
  })

  it('keeps neither state, browser nor verifier in clear', async () => {
    const key = somebody()
    const flow = flowFor(key, 'hidden')
    await opened(key, flow)
    const [row] = await database.sql<[{ text: string }]>`
      SELECT connect_flow::text AS text FROM connect_flow WHERE user_id = ${key.userId}`
    expect(row.text).toContain(key.userId)
    for (const secret of [flow.state, flow.browser, flow.codeVerifier.reveal()]) {
      expect(row.text).not.toContain(secret)
      expect(row.text).not.toContain(Buffer.from(secret).toString('hex'))
    }
  })

  it('refuses a verifier of another flow, and the flow is gone', async () => {
    const [key, other] = [somebody(), somebody()]
    const [flow, theirs] = [flowFor(key, 'mine'), flowFor(other, 'theirs')]
    await opened(key, flow)
    await opened(other, theirs)
    await database.sql`
      UPDATE connect_flow SET code_verifier = (
        SELECT code_verifier FROM connect_flow WHERE user_id = ${other.userId})
      WHERE user_id = ${key.userId}`
    await expect(store.takeFlow(flow)).rejects.toMatchObject({ code: 'credential_corrupt' })
    expect(await store.takeFlow(flow)).toBeUndefined()
    expect((await store.takeFlow(theirs))?.codeVerifier.reveal()).toBe('CANARY-verifier-theirs')
  })
})
