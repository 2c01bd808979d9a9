import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { isBrokerError } from '../../src/core/errors.ts'
import type { Sealer, SealingContext } from '../../src/core/ports/sealer.ts'
import { Secret } from '../../src/core/secret.ts'
import { createConnectStore } from '../../src/sealing/connect-store.ts'
import { createEnvelope } from '../../src/sealing/envelope.ts'
import { createKeyring, generateKey } from '../../src/sealing/keyring.ts'
import { createConnectRecords } from '../../src/storage/connect-records.ts'
import { endpoints } from '../support/authorization-server.ts'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { insertSealedRow, sealedFields } from '../support/sealed-rows.ts'
import { seededRandom } from '../support/seeded-random.ts'

// Whoever can write to the database changes what is stored: 1,000 changes, each in a row of its own.

const otherKeySecret = generateKey()
const random = seededRandom(20_261_121)
const pick = <T>(from: readonly T[]): T => from[Math.floor(random() * from.length)] as T
const upTo = (limit: number) => Math.floor(random() * limit)

let broker: TestBroker
let sealer: Sealer
beforeAll(async () => {
  // Two keys, so that one can be written in the place of the other.
  broker = await startTestBroker({
    change: (config) => {
      config.encryption.keys.push({ id: 'k2', secret: otherKeySecret })
    },
  })
  sealer = createEnvelope(
    createKeyring([
      { id: 'k1', secret: new Secret(broker.encryptionKey) },
      { id: 'k2', secret: new Secret(otherKeySecret) },
    ]),
  )
})
afterAll(() => broker.stop())

const secretOf = (owner: string) => new Secret(`${owner}'s own secret ${'x'.repeat(upTo(200))}`)

type Mutation = (sealed: Buffer, context: SealingContext) => Buffer

/** A value that is good somewhere else. */
const moved =
  (change: (context: SealingContext) => SealingContext): Mutation =>
  (_sealed, context) =>
    sealer.seal(secretOf('somebody else'), change(context))

const swaps: Readonly<Record<string, Mutation>> = {
  'of another person': moved((context) =>
    'userId' in context ? { ...context, userId: 'somebody-else' } : elsewhere(context),
  ),
  'of another issuer': moved((context) =>
    'issuer' in context ? { ...context, issuer: 'https://other.example.com' } : elsewhere(context),
  ),
  'for another upstream': moved((context) =>
    'upstream' in context ? { ...context, upstream: 'reports' } : elsewhere(context),
  ),
  'of another row': moved(elsewhere),
  'of an earlier generation': moved((context) =>
    'generation' in context
      ? { ...context, generation: context.generation - 1 - upTo(50) }
      : elsewhere(context),
  ),
  'of another column': moved((context) => {
    const others = fieldsOf(context).filter((field) => field !== context.field)
    const field = others.length > 0 ? pick(others) : 'check'
    return { ...context, field } as SealingContext
  }),
  'of another table': moved(({ field }) => ({ table: 'encryption_key', field }) as SealingContext),
}

const changes: Readonly<Record<string, Mutation>> = {
  'one bit flipped': (sealed) => {
    const changed = Buffer.from(sealed)
    const bit = upTo(changed.length * 8)
    changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7))
    return changed
  },
  'cut anywhere': (sealed) => sealed.subarray(0, upTo(sealed.length)),
  'its tag cut short': (sealed) => sealed.subarray(0, sealed.length - pick([4, 8, 12, 15])),
  'something behind it': (sealed) => Buffer.concat([sealed, randomBytes(1 + upTo(40))]),
  'half of another value of the same place': (sealed, context) => {
    const other = sealer.seal(secretOf('somebody else'), context)
    const at = 6 + upTo(Math.min(sealed.length, other.length) - 7)
    return Buffer.concat([sealed.subarray(0, at), other.subarray(at)])
  },
  'another format': (sealed) => {
    const changed = Buffer.from(sealed)
    changed[1] = pick([0, 2, 3, 0x7b, 0xff])
    return changed
  },
  'another magic byte': (sealed) => {
    const changed = Buffer.from(sealed)
    changed[0] = pick([0, 0x7b, 0xb6, 0xff])
    return changed
  },
  'under the name of another configured key': (sealed) => {
    const changed = Buffer.from(sealed)
    changed.write('k2', 3)
    return changed
  },
  'under the name of an unknown key': (sealed) => {
    const changed = Buffer.from(sealed)
    changed.write('zz', 3)
    return changed
  },
  'plain text': () => Buffer.from('a token in clear'),
  JSON: () => Buffer.from('{"enc":"none","access_token":"in clear"}'),
  nothing: () => Buffer.alloc(0),
  'one byte': () => Buffer.of(0xb7),
  noise: () => randomBytes(1 + upTo(300)),
}

const mutations = Object.entries({ ...swaps, ...changes })

function fieldsOf(context: SealingContext): readonly string[] {
  const fields: Readonly<Record<string, readonly string[]>> = sealedFields
  // Not every place is a column: there is a file, and what goes through an MCP client.
  return fields[context.table] ?? []
}

/** The same table and column in another row. */
function elsewhere(context: SealingContext): SealingContext {
  if ('stateHash' in context) return { ...context, stateHash: randomBytes(32) }
  if ('idHash' in context) return { ...context, idHash: randomBytes(32) }
  if ('ticketHash' in context) return { ...context, ticketHash: randomBytes(32) }
  if ('generation' in context) return { ...context, generation: context.generation + 1 + upTo(50) }
  if ('keyId' in context) return { ...context, keyId: 'another-key' }
  if ('source' in context) return { ...context, source: 'another-source' }
  if ('redirectUri' in context) return { ...context, redirectUri: 'https://another.example.com' }
  return context
}

/** In batches, so that neither pool nor process is what this tests. */
async function forEach<T>(all: readonly T[], act: (one: T) => Promise<void>): Promise<void> {
  for (let at = 0; at < all.length; at += 20) {
    await Promise.all(all.slice(at, at + 20).map(act))
  }
}

async function overwrite(context: SealingContext, where: string, value: unknown, mutated: Buffer) {
  const { sql } = broker.database.database
  const written = await sql`
    UPDATE ${sql(context.table)} SET ${sql(context.field)} = ${mutated} WHERE ${sql(where)} = ${value as string}`
  expect(written.count).toBe(1)
}

const corruptionsTold = async () => {
  const metrics = await broker.call('GET', '/metrics')
  return Number(/onbehalf_credential_corrupt_total (\d+)/.exec(metrics.text)?.[1])
}

describe('S1, S2, S3: 600 changes to stored credentials, through the broker', () => {
  type Victim = { readonly id: string; readonly what: string; readonly expired: boolean }
  const victims: Victim[] = []
  const bystanders = Array.from({ length: 60 }, (_, at) => `bystander-${at}`)
  let requests: number

  const place = (userId: string) => ({
    issuer: broker.identityProvider.issuer,
    userId,
    upstream: 'files',
  })
  const resolve = (id: string) =>
    broker.resolve({ upstream: 'files', user: { issuer: broker.identityProvider.issuer, id } })

  beforeAll(async () => {
    const { sql } = broker.database.database
    await broker.connect('ada')
    requests = broker.authorizationServer.received(endpoints.token).length
    await forEach(bystanders, async (id) => {
      await insertSealedRow(
        broker.database.database,
        'credential',
        (context) => sealer.seal(new Secret(`${id}:${context.field}`), context),
        place(id),
      )
    })
    const all = Array.from({ length: 600 }, (_, at) => ({
      id: `victim-${String(at).padStart(3, '0')}`,
      mutation: mutations[at % mutations.length] ?? pick(mutations),
      expired: random() < 0.5,
      seed: random(),
    }))
    await forEach(all, async ({ id, mutation: [what, mutate], expired }) => {
      // The refresh token is opened only when the credential has ended.
      const field = expired ? 'refresh_token' : 'access_token'
      const sealed = new Map<string, Buffer>()
      const contexts = await insertSealedRow(
        broker.database.database,
        'credential',
        (context) => {
          const value = sealer.seal(secretOf(id), context)
          sealed.set(context.field, value)
          return value
        },
        place(id),
      )
      const context = contexts.find((one) => one.field === field)
      const original = sealed.get(field)
      if (context === undefined || original === undefined) throw new Error('no such column')
      await overwrite(context, 'user_id', id, mutate(original, context))
      victims.push({ id, what, expired })
    })
    // Bound to what is configured, as ada's is; otherwise nobody would look at the tokens at all.
    await sql`
      UPDATE credential SET authorization_server = ada.authorization_server, client_id = ada.client_id,
        resource = ada.resource, expires_at = now() + interval '1 hour'
      FROM credential ada WHERE ada.user_id = 'ada'`
    const ended = victims.filter(({ expired }) => expired).map(({ id }) => id)
    await sql`
      UPDATE credential SET expires_at = now() - interval '1 minute'
      WHERE user_id = ANY(${sql.array(ended)}::text[])`
  })

  it('each is 503 credential_corrupt, with nobody’s token in the answer', async () => {
    const survived: string[] = []
    await forEach(victims, async ({ id, what, expired }) => {
      const { status, body, text, headers } = await resolve(id)
      const refused = status === 503 && body['code'] === 'credential_corrupt'
      const isSecret = text.includes('own secret') || text.includes('in clear')
      if (!refused || isSecret)
        survived.push(`${what} (${expired ? 'refresh' : 'access'}): ${text}`)
      expect(Number(headers.get('retry-after'))).toBeGreaterThanOrEqual(1)
    })
    expect(survived).toEqual([])
  })

  it('each is told to the operator, once a call: an administration record and the metric', async () => {
    expect(await corruptionsTold()).toBe(victims.length)
    const { sql } = broker.database.database
    const isThere = async () => {
      const rows = await sql<{ user_id: string }[]>`
        SELECT user_id FROM activity
        WHERE type = 'administration' AND action = 'credential_corrupt' AND outcome = 'failure' AND upstream = 'files'`
      return rows.map((row) => row.user_id).toSorted()
    }
    await expect.poll(isThere).toEqual(victims.map(({ id }) => id).toSorted())
  })

  it('nothing was sent anywhere, no lease is held, and other people get their own', async () => {
    expect(broker.authorizationServer.received(endpoints.token)).toHaveLength(requests)
    const { sql } = broker.database.database
    expect(await sql`SELECT FROM credential WHERE lease_owner IS NOT NULL`).toHaveLength(0)
    await forEach(bystanders, async (id) => {
      const { status, body } = await resolve(id)
      expect({ status, value: body['value'] }).toEqual({
        status: 200,
        value: `Bearer ${id}:access_token`,
      })
    })
    expect((await resolve('ada')).status).toBe(200)
  })

  it('connecting again replaces it', async () => {
    const { sql } = broker.database.database
    await sql`UPDATE credential SET user_id = 'grace' WHERE user_id = ${victims[0]?.id ?? ''}`
    expect((await resolve('grace')).body['code']).toBe('credential_corrupt')
    await broker.connect('grace')
    expect((await resolve('grace')).status).toBe(200)
  })

  it('where nobody can connect, the call that finds it says so and the next exchange replaces it', async () => {
    expect((await broker.resolveAs('ada', 'reports')).status).toBe(200)
    const { sql } = broker.database.database
    // A start is refused while rows name a key that is not there.
    await sql`DELETE FROM credential WHERE user_id LIKE 'victim-%'`
    await sql`
      UPDATE credential SET access_token = (
        SELECT access_token FROM credential WHERE user_id = 'ada' AND upstream = 'files')
      WHERE user_id = 'ada' AND upstream = 'reports'`
    const again = await broker.startBeside()
    const found = await again.resolveAs('ada', 'reports')
    expect(found).toMatchObject({ status: 503, body: { code: 'credential_corrupt' } })
    // Without a token to exchange there is nothing to replace it with.
    const asserted = { issuer: broker.identityProvider.issuer, id: 'ada' }
    expect(await again.resolve({ upstream: 'reports', user: asserted })).toMatchObject({
      status: 503,
      body: { code: 'credential_corrupt' },
    })
    expect((await again.resolveAs('ada', 'reports')).status).toBe(200)
    expect((await again.resolve({ upstream: 'reports', user: asserted })).status).toBe(200)
    await again.stop()
  })
})

describe('S1, S2, S3: 400 changes to every other sealed value', () => {
  it('none of them opens where it stands, and its neighbours do', async () => {
    const tables = Object.keys(sealedFields).filter((table) => table !== 'credential')
    const survived: string[] = []
    const all = Array.from({ length: 400 }, (_, at) => ({
      table: tables[at % tables.length] ?? '',
      mutation: pick(mutations),
      userId: `other-${at}`,
    }))
    await forEach(all, async ({ table, mutation: [what, mutate], userId }) => {
      const { database } = broker.database
      const sealed = new Map<string, Buffer>()
      const contexts = await insertSealedRow(
        database,
        table,
        (context) => {
          const value = sealer.seal(secretOf(userId), context)
          sealed.set(context.field, value)
          return value
        },
        { issuer: broker.identityProvider.issuer, userId, upstream: 'files' },
      )
      const target = pick(contexts)
      const [where, value] = rowOf(target)
      const mutated = mutate(sealed.get(target.field) ?? Buffer.alloc(0), target)
      await overwrite(target, where, value, mutated)
      const { sql } = database
      const [row] = await sql<Record<string, Buffer>[]>`
        SELECT * FROM ${sql(table)} WHERE ${sql(where)} = ${value as string}`
      for (const context of contexts) {
        const isGood = opens(row?.[context.field] ?? Buffer.alloc(0), context)
        if (isGood === (context === target)) survived.push(`${table}.${context.field}: ${what}`)
      }
    })
    expect(survived).toEqual([])
  })

  it('a link whose stored form does not open is not given out: another is, and the operator is told', async () => {
    const told = await corruptionsTold()
    const person = 'linus'
    const ask = async () => String((await broker.resolveAs(person, 'files')).body['connect_url'])
    const first = await ask()
    expect(await ask()).toBe(first)
    const { sql } = broker.database.database
    await sql`
      UPDATE connect_ticket SET sealed_ticket = (
        SELECT sealed_ticket FROM connect_ticket WHERE user_id LIKE 'other-%' AND sealed_ticket IS NOT NULL LIMIT 1)
      WHERE user_id = ${person}`
    const second = await ask()
    expect(second).toMatch(/\/connect\/[\w-]{43}$/)
    expect(second).not.toBe(first)
    expect(await corruptionsTold()).toBe(told + 1)
  })

  it('a flow whose verifier does not open is used up and asks nobody for a token', async () => {
    const connects = createConnectStore({
      records: createConnectRecords(broker.database.database),
      sealer,
    })
    const key = { issuer: broker.identityProvider.issuer, userId: 'flow-person', upstream: 'files' }
    const wanted = { ...key, returnTo: undefined, scopes: [], claims: undefined }
    const { ticket } = await connects.issueTicket(wanted)
    const by = { ...key, state: 'a state', browser: 'a browser' }
    await connects.beginFlow(ticket.reveal(), {
      ...by,
      returnTo: undefined,
      scopes: [],
      codeVerifier: new Secret('a verifier'),
      expectedIssuer: undefined,
      issuerRequired: false,
      binding: { authorizationServer: 'https://as', clientId: 'c', resource: undefined },
    })
    await broker.database.database.sql`
      UPDATE connect_flow SET code_verifier = 'a verifier'::bytea WHERE user_id = ${key.userId}`
    await expect(connects.takeFlow(by)).rejects.toMatchObject({ code: 'credential_corrupt' })
    expect(await connects.takeFlow(by)).toBeUndefined()
  })
})

function rowOf(context: SealingContext): readonly [string, unknown] {
  if ('ticketHash' in context) return ['ticket_hash', context.ticketHash]
  if ('stateHash' in context) return ['state_hash', context.stateHash]
  if ('keyId' in context) return ['key_id', context.keyId]
  if ('userId' in context) return ['user_id', context.userId]
  if ('source' in context) return ['upstream', context.upstream]
  if ('redirectUri' in context) return ['authorization_server', context.authorizationServer]
  throw new Error('no such row')
}

function opens(sealed: Buffer, context: SealingContext): boolean {
  try {
    sealer.open(sealed, context)
    return true
  } catch (error) {
    if (isBrokerError(error, 'credential_corrupt')) return false
    throw error
  }
}
