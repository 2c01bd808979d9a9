import { setTimeout as sleep } from 'node:timers/promises'
import type postgres from 'postgres'

/** One call for a person: the access token, or a rejection. */
export type Acquire = (person: string) => Promise<string>

type Ports = {
  readonly sql: postgres.Sql
  readonly tokenUrl: string
  /** This process. */
  readonly owner: string
  /** Right before a request leaves. */
  readonly beforeSend: () => Promise<void>
}

type Row = {
  readonly generation: number
  readonly access_token: string
  readonly refresh_token: string
  readonly fresh: boolean
}

const leaseMs = 1000
const ttlPollMs = 20

/** How others keep two processes from using one refresh token, each as small as it can be written. */
export const lockings: Readonly<Record<string, (ports: Ports) => Promise<Acquire>>> = {
  none: async (ports) => (person) => readOrRenew(ports, person),

  'in-process': async (ports) => inOneFlight((person) => readOrRenew(ports, person)),

  /** Every caller takes it, and holds a connection of the pool while the server answers. */
  'advisory lock': async (ports) => (person) =>
    ports.sql.begin(async (transaction) => {
      await transaction`SELECT pg_advisory_xact_lock(hashtextextended(${person}, 0))`
      return readOrRenew({ ...ports, sql: transaction as unknown as postgres.Sql }, person)
    }) as Promise<string>,

  /** As SET NX PX is used: whoever finds it free or expired has it, and whoever is done deletes it, be it another's by now. */
  'TTL key': async (ports) =>
    inOneFlight(async (person) => {
      const { sql } = ports
      for (;;) {
        const row = await read(ports, person)
        if (row.fresh) return row.access_token
        const [won] = await sql`
          INSERT INTO ttl_key (person, until) VALUES (${person}, now() + ${leaseMs} * interval '1 millisecond')
          ON CONFLICT (person) DO UPDATE SET until = excluded.until WHERE ttl_key.until <= now() RETURNING 1`
        if (won === undefined) {
          await sleep(ttlPollMs)
          continue
        }
        try {
          return await readOrRenew(ports, person)
        } finally {
          await sql`DELETE FROM ttl_key WHERE person = ${person}`
        }
      }
    }),

  'fence without intent': (ports) => fenced(ports, leaseMs),

  /** Two statements and a NOTIFY: the claim is the intent, and its lease covers the server's whole time. */
  'bare fenced lease': (ports) => fenced(ports, 10_000),
}

/** A conditional UPDATE with an epoch, a commit where the generation is still the same, losers woken by NOTIFY. */
async function fenced(ports: Ports, holdsMs: number): Promise<Acquire> {
  const { sql, owner } = ports
  const waiting = new Map<string, Set<() => void>>()
  await sql.listen('peer', (person) => {
    for (const wake of waiting.get(person) ?? []) wake()
  })

  return inOneFlight(async (person) => {
    for (;;) {
      const woken = nextNotice(person)
      const claimedMs = performance.now()
      const [claim] = await sql<{ generation: number; refresh_token: string }[]>`
        UPDATE peer SET lease_owner = ${owner}, lease_epoch = lease_epoch + 1,
          lease_until = now() + ${holdsMs} * interval '1 millisecond'
        WHERE person = ${person} AND expires_at <= now() AND (lease_until IS NULL OR lease_until <= now())
        RETURNING generation, refresh_token`
      if (claim === undefined) {
        // Another has it, or it is done.
        const row = await read(ports, person)
        if (row.fresh) return row.access_token
        await woken
        continue
      }
      await ports.beforeSend()
      // Stopped past the lease: another has it by now.
      if (performance.now() - claimedMs > holdsMs * 0.9) continue
      const tokens = await redeem(ports, claim.refresh_token)
      if (tokens === undefined) {
        const row = await read(ports, person)
        if (row.fresh) return row.access_token
        throw new Error('invalid_grant')
      }
      await sql`
        UPDATE peer SET generation = generation + 1, access_token = ${tokens.access_token},
          refresh_token = ${tokens.refresh_token}, expires_at = now() + interval '1 hour', lease_until = NULL
        WHERE person = ${person} AND generation = ${claim.generation}
        RETURNING pg_notify('peer', ${person})`
      return tokens.access_token
    }
  })

  /** The next notice of this person, or a while without one. */
  function nextNotice(person: string): Promise<void> {
    return new Promise((resolve) => {
      const listeners = waiting.get(person) ?? new Set()
      waiting.set(person, listeners)
      const done = () => {
        clearTimeout(timer)
        listeners.delete(done)
        resolve()
      }
      const timer = setTimeout(done, 250)
      listeners.add(done)
    })
  }
}

function inOneFlight(work: Acquire): Acquire {
  const flights = new Map<string, Promise<string>>()
  return (person) => {
    const known = flights.get(person)
    if (known !== undefined) return known
    const flight = work(person).finally(() => flights.delete(person))
    flights.set(person, flight)
    return flight
  }
}

async function readOrRenew(ports: Ports, person: string): Promise<string> {
  const { sql } = ports
  const row = await read(ports, person)
  if (row.fresh) return row.access_token
  await ports.beforeSend()
  const tokens = await redeem(ports, row.refresh_token)
  if (tokens === undefined) throw new Error('invalid_grant')
  await sql`
    UPDATE peer SET generation = generation + 1, access_token = ${tokens.access_token},
      refresh_token = ${tokens.refresh_token}, expires_at = now() + interval '1 hour'
    WHERE person = ${person}`
  return tokens.access_token
}

async function read({ sql }: Ports, person: string): Promise<Row> {
  const [row] = await sql<Row[]>`
    SELECT generation, access_token, refresh_token, expires_at > now() AS fresh FROM peer WHERE person = ${person}`
  if (row === undefined) throw new Error('nobody')
  return row
}

/** Undefined where the server says that the grant is dead. */
async function redeem(
  { tokenUrl }: Ports,
  refreshToken: string,
): Promise<{ access_token: string; refresh_token: string } | undefined> {
  const answer = await fetch(tokenUrl, {
    method: 'POST',
    headers: { authorization: 'Basic YmVuY2g6YmVuY2gtc2VjcmV0' },
    body: new URLSearchParams({ grant_type: 'refresh_token', refresh_token: refreshToken }),
  })
  const body = (await answer.json()) as { access_token: string; refresh_token: string }
  return answer.ok ? body : undefined
}
