import { randomBytes, randomUUID } from 'node:crypto'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { SignJWT } from 'jose'
import { expect } from 'vitest'
import { Secret } from '../../../src/core/secret.ts'
import { createCredentialStore } from '../../../src/sealing/credential-store.ts'
import { createEnvelope } from '../../../src/sealing/envelope.ts'
import { createKeyring } from '../../../src/sealing/keyring.ts'
import { createCredentialRecords } from '../../../src/storage/credential-records.ts'
import { createTestDatabase, type TestDatabase } from '../../support/database.ts'
import { leakingFiles, leakingRecords } from './leaks.ts'
import { type Outcome, type Replica, sleep, startReplica } from './replica.ts'
import {
  type RotationRule,
  rotationRules,
  startTokenServer,
  type TokenServer,
} from './token-server.ts'

/** Several brokers, one database, one authorization server, and what all callers saw. */
export type Scene = {
  readonly server: TokenServer
  readonly replicas: readonly Replica[]
  readonly database: TestDatabase
  readonly outcomes: readonly Outcome[]
  /** Somebody with a stored connection that no replica has seen yet. */
  readonly person: (options?: PersonOptions) => Promise<Person>
  /** One more broker beside the others. */
  readonly addReplica: (options?: ReplicaOptions) => Promise<Replica>
  /** Keeps calling for these people on all replicas that run, `callers` calls at a time, until the work is done. */
  readonly load: (
    people: readonly Person[],
    callers: number,
    work: () => Promise<void>,
  ) => Promise<void>
  /** Waits for it; fails with the name of what did not come. */
  readonly until: <T>(
    what: string,
    look: () => T | Promise<T>,
    seconds?: number,
  ) => Promise<NonNullable<T>>
  /** What went through the server and what callers saw; throws where it is not what may be. */
  readonly finish: (expected: Expected) => Promise<Row>
  readonly stop: () => Promise<void>
}

export type PersonOptions = {
  readonly rule?: RotationRule
  /** Of the stored credential; negative: it has ended. */
  readonly endsInSeconds?: number
  /** Of those that a refresh brings. */
  readonly livesSeconds?: number
}

export type ReplicaOptions = { readonly clockAheadMs?: number; readonly dataDir?: string }

export type Person = {
  readonly id: string
  readonly upstream: RotationRule
  /** The access token that is stored at the beginning. */
  readonly accessToken: string
  readonly resolve: (at: Replica | undefined, more?: Record<string, unknown>) => Promise<Outcome>
  /** So many callers at once, on these replicas in turn. */
  readonly storm: (callers: number, at: readonly Replica[]) => Promise<readonly Outcome[]>
  /** Calls as a well-behaved caller does, minding Retry-After, until it is answered 200 or 403. */
  readonly untilSettled: (at: Replica | undefined, seconds?: number) => Promise<Outcome>
  readonly row: () => Promise<ConnectionRow | undefined>
  /** What `GET /api/v1/connections/{upstream}` says to the person. */
  readonly view: (
    at: Replica | undefined,
  ) => Promise<{ readonly status: string; readonly reason: string | null }>
  /** `DELETE /api/v1/connections/{upstream}` by the person; the status. */
  readonly disconnect: (at: Replica | undefined) => Promise<number>
  /** Connects anew, as the callback of a connect does it. */
  readonly reconnect: () => Promise<void>
  /** From here on it is the person's own doing that there is no connection. */
  readonly leave: () => void
}

export type ConnectionRow = {
  readonly status: string
  readonly reason: string | null
  readonly generation: number
  readonly expires_at: Date | null
}

/** The numbers that a scenario must end with; a pair is a range, ends included. */
export type Expected = {
  readonly requests: number | readonly [number, number]
  readonly lost: number | readonly [number, number]
  /** 0 unless said. */
  readonly reuses?: number | readonly [number, number]
  /** Requests of one grant that were open at one time; 1 unless said. */
  readonly atOnce?: number
  /** Answers that callers may have had, such as `200` or `503 upstream_unavailable`; `no answer` where their replica died. */
  readonly saw: readonly string[]
}

/** A line of the table. */
export type Row = {
  readonly requests: number
  readonly reuses: number
  readonly people: number
  readonly lost: number
  readonly saw: string
}

const issuer = 'http://127.0.0.1/faults-issuer'
const publicUrl = 'http://127.0.0.1:9'

export async function startScene(
  options: {
    readonly replicas?: number
    readonly latencyMs?: number
    /** Instead of a database on the server that all scenarios share. */
    readonly database?: () => Promise<TestDatabase>
    readonly change?: (config: Record<string, unknown>) => void
  } = {},
): Promise<Scene> {
  const directory = await mkdtemp(join(tmpdir(), 'onbehalf-faults-'))
  const server = await startTokenServer(
    options.latencyMs === undefined ? {} : { latencyMs: options.latencyMs },
  )
  const database = await (options.database ?? (() => createTestDatabase({ pool: 3 })))()
  const key = randomBytes(32).toString('base64')
  const serviceKey = randomBytes(32).toString('base64url')
  const replicas: Replica[] = []
  const people: Person[] = []
  const outcomes: Outcome[] = []
  /** Calls that are no resolve; they leave one record at most. */
  const others = new Set<string>()
  /** Who has disconnected. */
  const left = new Set<string>()
  const issuerSecret = randomBytes(32).toString('base64url')
  const config = configOf(server, key, serviceKey, issuerSecret)
  options.change?.(config)

  const store = createCredentialStore({
    records: createCredentialRecords(database.database),
    sealer: createEnvelope(createKeyring([{ id: 'k1', secret: new Secret(key) }])),
  })

  async function person(wanted: PersonOptions = {}): Promise<Person> {
    const { rule = 'strict', endsInSeconds = -1, livesSeconds = 3600 } = wanted
    const id = `person-${randomBytes(4).toString('hex')}`
    const connect = async (seconds: number) => {
      const given = server.register(id, rule, livesSeconds)
      await store.put(
        { issuer, userId: id, upstream: rule },
        {
          tokens: {
            accessToken: new Secret(given.accessToken),
            refreshToken: new Secret(given.refreshToken),
            expiresAt: new Date(Date.now() + seconds * 1000),
            scopes: ['files:read'],
            account: undefined,
          },
          method: 'connect',
          scopes: ['files:read'],
          audience: undefined,
          binding: {
            authorizationServer: `${server.origin}/${rule}/token`,
            clientId: 'faults',
            resource: undefined,
          },
          renewed: false,
        },
      )
      return given.accessToken
    }
    const accessToken = await connect(endsInSeconds)
    const { sql } = database.database
    // The database's clock is this machine's.
    await sql`
      UPDATE credential SET obtained_at = now() - interval '1 hour', connected_at = now() - interval '1 day',
        expires_at = now() + make_interval(secs => ${endsInSeconds}) WHERE user_id = ${id}`
    const made: Person = {
      id,
      upstream: rule,
      accessToken,
      resolve: (at, more) => some(at).resolve(id, rule, more),
      storm: (callers, at) =>
        Promise.all(
          Array.from({ length: callers }, (_, caller) =>
            some(at[caller % at.length]).resolve(id, rule),
          ),
        ),
      async untilSettled(at, seconds = 50) {
        const giveUpAt = Date.now() + seconds * 1000
        for (;;) {
          const outcome = await some(at).resolve(id, rule)
          if (outcome.status === 200 || outcome.status === 403 || Date.now() > giveUpAt)
            return outcome
          await sleep(Math.min(outcome.retryAfterSeconds ?? 1, 2) * 1000)
        }
      },
      async row() {
        const [row] = await sql<ConnectionRow[]>`
          SELECT status, reason, generation, expires_at FROM credential WHERE user_id = ${id}`
        return row
      },
      async view(at) {
        const answer = await callAs(id, 'GET', some(at), `/api/v1/connections/${rule}`)
        return (await answer.json()) as { status: string; reason: string | null }
      },
      async disconnect(at) {
        const answer = await callAs(id, 'DELETE', some(at), `/api/v1/connections/${rule}`)
        return answer.status
      },
      async reconnect() {
        await connect(3600)
      },
      leave: () => void left.add(id),
    }
    people.push(made)
    return made
  }

  /** With the person's own bearer. Leaves a record where it removed something. */
  async function callAs(id: string, method: string, at: Replica, path: string): Promise<Response> {
    const token = await new SignJWT({ sub: id })
      .setProtectedHeader({ alg: 'HS256', typ: 'at+jwt' })
      .setIssuer(issuer)
      .setAudience(publicUrl)
      .setIssuedAt()
      .setExpirationTime('1h')
      .sign(Buffer.from(issuerSecret))
    const requestId = randomUUID()
    others.add(requestId)
    return fetch(`${at.url()}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${token}`,
        'x-request-id': requestId,
        'x-onbehalf-csrf': '1',
      },
    })
  }

  async function addReplica(more: ReplicaOptions = {}): Promise<Replica> {
    const own = join(directory, `replica-${replicas.length}`)
    await mkdir(own)
    const replica = await startReplica({
      config,
      databaseUrl: database.url,
      directory: own,
      serviceKey,
      issuer,
      onOutcome: (outcome) => outcomes.push(outcome),
      ...more,
    })
    replicas.push(replica)
    return replica
  }

  async function finish(expected: Expected): Promise<Row> {
    // What a dead replica has on its disk counts, so it is started again as a supervisor would.
    for (const replica of replicas) {
      replica.wire.hook(undefined)
      replica.wire.open()
      if (!replica.isRunning()) await replica.start()
    }
    const grants = people.map(({ id }) => server.grant(id))
    const rows = await Promise.all(people.map((one) => one.row()))
    const lost = grants.filter((grant, index) => {
      if (left.has(grant.person)) return false
      return grant.revoked || rows[index]?.status === 'reconnect_required'
    }).length
    const row: Row = {
      requests: grants.reduce((sum, grant) => sum + grant.requests, 0),
      reuses: grants.reduce((sum, grant) => sum + grant.reuses, 0),
      people: people.length,
      lost,
      saw: summaryOf(outcomes),
    }
    checkNumber('upstream requests', row.requests, expected.requests, row)
    checkNumber('people lost', row.lost, expected.lost, row)
    const atOnce = Math.max(0, ...grants.map(({ mostOpen }) => mostOpen))
    checkNumber('requests of one grant at once', atOnce, [0, expected.atOnce ?? 1], row)
    checkNumber('reuses', row.reuses, expected.reuses ?? 0, row)
    const unexpected = outcomes.map(labelOf).filter((label) => !expected.saw.includes(label))
    expect(summaryOfLabels(unexpected), 'answers that no caller may get here').toBe('')
    checkOutcomes()
    await checkRecords()
    await checkReplicas()
    expect(await leakingRecords(database.database.sql), 'records with secrets').toBe(0)
    return row
  }

  /** What is given is the person's own, not ended, and something that the server gave to this person. */
  function checkOutcomes(): void {
    for (const { person: id, accessToken, expiresAt, status } of outcomes) {
      if (status !== 200) continue
      expect(accessToken?.split('.')[0], 'a credential of somebody else').toBe(`CNRY-AT-${id}`)
      expect(expiresAt, 'a credential without an end').toBeDefined()
    }
  }

  async function checkRecords(): Promise<void> {
    // A call that the log has no room for is refused before it is an operation; who found that out is recorded later.
    const mayHaveNone = (outcome: Outcome) =>
      outcome.status === 0 || labelOf(outcome) === '503 audit_unavailable'
    const idsOf = (of: readonly Outcome[]) => of.map(({ requestId }) => requestId)
    const answered = new Set(idsOf(outcomes.filter((outcome) => !mayHaveNone(outcome))))
    const unanswered = new Set([...idsOf(outcomes.filter(mayHaveNone)), ...others])
    const look = async () => {
      const counts = new Map<string, number>()
      const found = await database.database.sql<{ request_id: string; actor_kind: string }[]>`
        SELECT request_id, actor_kind FROM activity`
      for (const { request_id: id, actor_kind: actor } of found) {
        if (actor === 'system') continue
        counts.set(id, (counts.get(id) ?? 0) + 1)
      }
      return {
        missing: [...answered].filter((id) => !counts.has(id)).length,
        twice: [...counts.values()].filter((count) => count > 1).length,
        ofNobody: [...counts.keys()].filter((id) => !answered.has(id) && !unanswered.has(id))
          .length,
      }
    }
    // Not expect.poll: scenarios run beside each other, and it would not know whose it is.
    const right = { missing: 0, twice: 0, ofNobody: 0 }
    const giveUpAt = Date.now() + 20_000
    let found = await look()
    while (JSON.stringify(found) !== JSON.stringify(right) && Date.now() < giveUpAt) {
      await sleep(100)
      found = await look()
    }
    expect(JSON.stringify(found), 'records of the calls').toBe(JSON.stringify(right))
  }

  async function checkReplicas(): Promise<void> {
    for (const replica of replicas) {
      expect(replica.diedOfItself()).toBeUndefined()
      await replica.kill('SIGTERM')
      const written = `${replica.log()}${replica.errors()}`
      expect(replica.errors(), 'stderr of a broker').toBe('')
      expect(written, 'a secret in the log').not.toContain('CNRY-')
      expect(written).not.toMatch(/unhandled|uncaught/i)
      expect(await leakingFiles(replica.dataDir), 'secrets on disk').toEqual([])
    }
  }

  async function until<T>(
    what: string,
    look: () => T | Promise<T>,
    seconds = 45,
  ): Promise<NonNullable<T>> {
    const giveUpAt = Date.now() + seconds * 1000
    for (;;) {
      const found = await look()
      if (found !== undefined && found !== null && found !== false) return found
      if (Date.now() > giveUpAt) throw new Error(`this did not happen in ${seconds} s: ${what}`)
      await sleep(20)
    }
  }

  async function load(
    whom: readonly Person[],
    callers: number,
    work: () => Promise<void>,
  ): Promise<void> {
    const over = new AbortController()
    let next = 0
    const callAgain = async () => {
      while (!over.signal.aborted) {
        next += 1
        const caller = some(whom[next % whom.length])
        let outcome: Outcome
        do {
          const serving = replicas.filter((replica) => replica.isServing())
          outcome = await caller.resolve(serving[next % serving.length])
          // As every load balancer does where nothing can have been sent.
        } while (outcome.transportError === 'ECONNREFUSED')
        await sleep(20)
      }
    }
    const calling = Array.from({ length: callers }, callAgain)
    try {
      await work()
    } finally {
      over.abort()
      await Promise.all(calling)
    }
  }

  async function stop(): Promise<void> {
    await Promise.all(replicas.map((replica) => replica.stop()))
    await server.stop()
    await rm(directory, { recursive: true, force: true, maxRetries: 5 })
    await database.drop()
  }

  try {
    for (let index = 0; index < (options.replicas ?? 2); index += 1) await addReplica()
  } catch (error) {
    await stop()
    throw error
  }
  return { server, replicas, database, outcomes, person, addReplica, load, until, finish, stop }
}

function configOf(
  server: TokenServer,
  key: string,
  serviceKey: string,
  issuerSecret: string,
): Record<string, unknown> {
  return {
    public_url: publicUrl,
    listen: { port: 0 },
    encryption: { keys: [{ id: 'k1', secret: key }] },
    identity: {
      issuers: [{ issuer, algorithms: ['HS256'], secret: issuerSecret }],
      services: [{ id: 'edge', key: serviceKey, upstreams: ['*'], may_assert_user: true }],
      login: { issuer, client_id: 'onbehalf' },
    },
    upstreams: Object.fromEntries(
      rotationRules.map((rule) => [
        rule,
        {
          url: `http://127.0.0.1/${rule}`,
          kind: 'http',
          credential: {
            mode: 'oauth_connect',
            authorization_endpoint: `${server.origin}/${rule}/authorize`,
            token_endpoint: `${server.origin}/${rule}/token`,
            revocation_endpoint: `${server.origin}/${rule}/revoke`,
            client_id: 'faults',
            client_secret: 'CNRY-CS-of-the-fault-suite',
            scopes: ['files:read'],
            refresh_reuse: rule === 'grace' ? '30s' : rule,
          },
        },
      ]),
    ),
  }
}

export function some<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('there is none')
  return value
}

export function labelOf({ status, code, reason, transportError }: Outcome): string {
  if (transportError === 'ECONNREFUSED') return 'refused connection'
  if (status === 0) return 'no answer'
  return [status, code, reason].filter((part) => part !== undefined).join(' ')
}

export function summaryOf(outcomes: readonly Outcome[]): string {
  return summaryOfLabels(outcomes.map(labelOf))
}

function summaryOfLabels(labels: readonly string[]): string {
  const counts = new Map<string, number>()
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1)
  return [...counts]
    .toSorted(([a], [b]) => a.localeCompare(b))
    .map(([label, count]) => `${count} × ${label}`)
    .join(', ')
}

function checkNumber(
  what: string,
  found: number,
  expected: number | readonly [number, number],
  row: Row,
): void {
  const [least, most] = typeof expected === 'number' ? [expected, expected] : expected
  const isRight = found >= least && found <= most
  expect(isRight, `${what}: ${found}, may be ${least} to ${most}; ${JSON.stringify(row)}`).toBe(
    true,
  )
}
