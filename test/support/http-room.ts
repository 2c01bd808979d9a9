import { createHash } from 'node:crypto'
import type { Actor, Person, PersonId, Service } from '../../src/core/caller.ts'
import type { ConnectionStatus } from '../../src/core/credential.ts'
import { BrokerError } from '../../src/core/errors.ts'
import type { ActivityVerdict } from '../../src/core/ports/activity-proof.ts'
import type { ActivityPublicKey } from '../../src/core/ports/activity-signer.ts'
import type { ActivityFilter, ActivityRecord } from '../../src/core/ports/activity-store.ts'
import type {
  AdministeredConnection,
  ConnectionFilter,
} from '../../src/core/ports/administration.ts'
import type {
  ConnectionView,
  ConnectPageView,
  RefusalRecorder,
  ResolvedCredential,
  ResolveRequest,
} from '../../src/core/ports/broker-services.ts'
import type { GatewayCall } from '../../src/core/ports/gateway.ts'
import type { Secret } from '../../src/core/secret.ts'
import {
  isConnectable,
  mayUseUpstream,
  methodOfMode,
  type Upstream,
} from '../../src/core/upstream.ts'
import { createApp } from '../../src/http/app.ts'
import type { HttpServices } from '../../src/http/services.ts'
import { createProtectedResources } from '../../src/identity/challenge.ts'
import { pages } from '../../src/pages/pages.ts'
import { createFakeClock } from './fake-clock.ts'

/** The HTTP room on its own: the real application, real pages and real challenges, over ports that a test can see into. */

export const issuer = 'https://login.example.com'
export const serviceKey = 'edge-key-CNRY-0123456789-abcdefghij'
export const narrowKey = 'narrow-key-CNRY-0123456789-abcdefgh'
export const assertingKey = 'asserting-key-CNRY-0123456789-abcde'
export const readingKey = 'reading-key-CNRY-0123456789-abcdefg'
export const offboardingKey = 'offboarding-key-CNRY-0123456789-abc'
export const adaToken = 'CNRY-token-of-ada'
export const bobToken = 'CNRY-token-of-bob'
export const adminToken = 'CNRY-token-of-the-admin'
export const credentialOfAda = 'CNRY-credential-of-ada'

export function person(userId: string, more: Partial<Person> = {}): Person {
  return {
    issuer,
    userId,
    email: `${userId}@example.com`,
    roles: [],
    admin: false,
    identity: 'token',
    ...more,
  }
}

export const ada = person('ada')
export const bob = person('bob', { email: undefined })
export const admin = person('root', { admin: true })

export function upstream(name: string, more: Partial<Upstream> = {}): Upstream {
  return {
    name,
    displayName: name.charAt(0).toUpperCase() + name.slice(1),
    url: `https://${name}.example.com/mcp`,
    kind: 'mcp',
    allow: { roles: [], users: [] },
    externalUrl: undefined,
    allowPrivateNetwork: false,
    timeouts: { connectMs: 5000, headMs: 120_000, idleMs: 600_000 },
    credential: {
      mode: 'oauth_connect',
      discovery: undefined,
      issuer: 'https://as.example.com',
      authorizationEndpoint: undefined,
      tokenEndpoint: undefined,
      revocationEndpoint: undefined,
      clientId: 'onbehalf',
      clientAuthentication: { method: 'none' },
      scopes: ['files:read'],
      stepUpScopes: [],
      authorizationParameters: {},
      tokenParameters: {},
      resource: undefined,
      audiences: [],
      subjectTokenType: 'access_token',
      tokenAnswerMember: undefined,
      refreshBeforeSeconds: 60,
      defaultLifetimeSeconds: 3600,
      refreshReuse: { kind: 'strict' },
      header: 'Authorization',
      headerFormat: 'Bearer {token}',
    },
    ...more,
  }
}

function exchanging(name: string): Upstream {
  const of = upstream(name)
  return { ...of, credential: { ...of.credential, mode: 'token_exchange' } }
}

function keyed(name: string): Upstream {
  const of = upstream(name, { displayName: 'Metrics' })
  return { ...of, credential: { ...of.credential, mode: 'user_key' } }
}

function service(id: string, more: Partial<Service> = {}): Service {
  return {
    id,
    upstreams: ['*'],
    maxAgeSeconds: 0,
    mayAssertUser: false,
    mayReadActivity: false,
    mayOffboard: false,
    ...more,
  }
}

export type Refusal = Parameters<RefusalRecorder['refused']>[0]

/** What the ports were asked, and what they answer next. */
export type HttpRoom = ReturnType<typeof createHttpRoom>

export function createHttpRoom(overrides: Partial<HttpServices> = {}) {
  const clock = createFakeClock()
  const publicUrl = overrides.publicUrl ?? 'https://broker.example.com'
  const upstreams = new Map(
    [
      upstream('files'),
      upstream('calendar', { displayName: '<b>Calendar</b> & Co' }),
      exchanging('ledger'),
      keyed('metrics'),
      upstream('vault', { allow: { roles: [], users: ['bob'] } }),
    ].map((of) => [of.name, of]),
  )
  const services = new Map<string, Service>([
    [serviceKey, service('edge', { maxAgeSeconds: 30 })],
    [narrowKey, service('narrow', { upstreams: ['calendar'] })],
    [assertingKey, service('asserting', { mayAssertUser: true })],
    [readingKey, service('reading', { mayReadActivity: true })],
    [offboardingKey, service('hr', { mayOffboard: true })],
  ])
  const bearers = new Map<string, () => Person | Promise<Person>>([
    [adaToken, () => ada],
    [bobToken, async () => bob],
    [adminToken, () => admin],
    ['CNRY-expired', () => refuse('unauthenticated')],
    ['CNRY-narrow', () => refuse('insufficient_scope', { scopes: ['broker:use'] })],
    ['CNRY-outage', () => refuse('issuer_unavailable', { retryAfterSeconds: 7 })],
  ])

  const sessions = new Map<string, Person>()
  const room = {
    clock,
    publicUrl,
    upstreams,
    asked: [] as ResolveRequest[],
    refusals: [] as Refusal[],
    admitted: 0,
    seenTokens: [] as string[],
    logged: [] as unknown[],
    sessions,
    /** The identity provider, which a state is added to. */
    signInUrl: 'https://login.example.com/authorize?client_id=onbehalf',
    signIns: [] as { returnTo: string; browser: string; claims: string | undefined }[],
    disconnected: [] as {
      person: PersonId
      actor: Actor
      upstream: string
      requestId: string
    }[],
    keys: [] as { person: Person; upstream: string; key: string }[],
    offboarded: [] as { person: PersonId; actor: Actor }[],
    administered: [] as AdministeredConnection[],
    connectionFilters: [] as ConnectionFilter[],
    linked: [] as { person: Person; upstream: string; returnTo: string | undefined }[],
    completed: [] as { params: string; browser: string | undefined; person: Person }[],
    proxied: [] as GatewayCall[],
    statuses: new Map<string, ConnectionStatus>(),
    records: [] as ActivityRecord[],
    verify: (): Promise<ActivityVerdict> =>
      Promise.resolve({
        findings: [],
        records: 0,
        writers: 0,
        unchained: 0,
        removed: 0,
        checkpoints: 0,
      }),
    signingKeys: [] as (ActivityPublicKey & { readonly createdAt: Date })[],
    filters: [] as ActivityFilter[],
    ready: { database: true, spool: true, keys: true },
    resolve: (_request: ResolveRequest): ResolvedCredential | Promise<ResolvedCredential> => ({
      header: 'Authorization',
      value: `Bearer ${credentialOfAda}`,
      expiresAt: new Date(clock.now().getTime() + 3_600_000),
      fingerprint: 'f1',
    }),
    admit: () => {},
    view: (_ticket: string, _person: Person): ConnectPageView => ({
      kind: 'confirm',
      upstream: upstream('files'),
      authorizationServerHost: 'as.example.com',
      scopes: ['files:read', 'files:write'],
    }),
    confirm: (
      _ticket: string,
    ): { kind: 'authorize'; url: URL } | { kind: 'sign_in'; claims: Secret; returnTo: string } => ({
      kind: 'authorize',
      url: new URL('https://as.example.com/authorize?state=s'),
    }),
    complete: (): string => '/connections?upstream=files&connected=1',
    completeSignIn: (_params: URLSearchParams): Person => ada,
    /** Signs a browser in and gives its cookies. */
    cookieOf(of: Person): string {
      const value = `session-${of.userId}`
      sessions.set(value, of)
      const prefix = publicUrl.startsWith('https:') ? '__Host-' : ''
      return `${prefix}onbehalf_session=${value}`
    },
    csrfOf: (of: Person) => csrfOf(`session-${of.userId}`),
  }

  const resources = createProtectedResources({
    publicUrl,
    issuers: [{ issuer, requiredScopes: ['broker:use'] }],
    upstreams,
  })

  function viewOf(of: Upstream): ConnectionView {
    const status = room.statuses.get(of.name) ?? 'not_connected'
    const isThere = status !== 'not_connected'
    return {
      upstream: of.name,
      displayName: of.displayName,
      mode: of.credential.mode,
      status,
      reason: isThere ? null : 'not_connected',
      scopes: of.credential.scopes,
      audience: null,
      method: methodOfMode[of.credential.mode],
      account: isThere ? 'ada@files' : null,
      expiresAt: isThere ? new Date('2026-11-21T13:00:00Z') : null,
      connectedAt: isThere ? new Date('2026-11-20T08:00:00Z') : null,
      lastUsedAt: null,
      connectable: isConnectable(of),
    }
  }

  const httpServices: HttpServices = {
    publicUrl,
    upstreams,
    returnTo: ['https://app.example.com'],
    allowedOrigins: ['https://client.example.com'],
    clock,
    version: '0.0.0-test',
    log: { error: (entry) => void room.logged.push(entry) },
    challenge: (refusal, target) => resources.challenge(refusal, target),
    protectedResources: resources,
    clientDocuments: { document: () => undefined },
    pages,
    authenticator: {
      verifyBearer(token) {
        room.seenTokens.push(token)
        return (bearers.get(token) ?? (() => refuse('unauthenticated')))()
      },
      findService: (key) => services.get(key),
      assertPerson: ({ issuer: of, userId }) =>
        of === issuer
          ? person(userId, { identity: 'asserted', email: undefined })
          : refuse('invalid_request', { field: 'user.issuer' }),
      admitAssertion: () => {},
    },
    signIn: {
      async start({ returnTo, browser, claims }) {
        room.signIns.push({ returnTo, browser, claims: claims?.reveal() })
        return `${room.signInUrl}&state=${room.signIns.length - 1}`
      },
      async complete({ params, browser }) {
        if (browser === undefined) refuse('unauthenticated')
        const of = room.completeSignIn(params)
        room.cookieOf(of)
        const begun = room.signIns[Number(params.get('state'))]
        return {
          session: `session-${of.userId}`,
          returnTo: begun?.browser === browser ? begun.returnTo : '/connections',
          maxAgeSeconds: 43_200,
        }
      },
      async find(session) {
        const of = sessions.get(session)
        return of === undefined ? undefined : { person: of, csrfToken: csrfOf(session) }
      },
      async end(session) {
        sessions.delete(session)
      },
    },
    refusals: {
      admit() {
        room.admitted += 1
        room.admit()
      },
      settled: () => undefined,
      refused: (refusal) => void room.refusals.push(refusal),
    },
    resolver: {
      resolve(request) {
        room.asked.push(request)
        return room.resolve(request)
      },
    },
    connections: {
      list: async (of) =>
        [...upstreams.values()]
          .filter((one) => mayUseUpstream(of, one))
          .toSorted((a, b) => (a.name < b.name ? -1 : 1))
          .map(viewOf),
      find: async (_person, of) => viewOf(of),
      findUnconfigured: async () => undefined,
      async disconnect({ person: of, actor, upstream: from, requestId }) {
        if (!upstreams.has(from)) refuse('unknown_upstream')
        room.disconnected.push({ person: of, actor, upstream: from, requestId })
      },
      async storeKey({ person: of, upstream: at, key }) {
        room.keys.push({ person: of, upstream: at.name, key: key.reveal() })
      },
    },
    administration: {
      async *connections(filter) {
        room.connectionFilters.push(filter)
        yield room.administered
      },
      upstreams: async () => [],
      async offboard({ person: of, actor }) {
        room.offboarded.push({ person: of, actor })
      },
    },
    gateway: {
      async proxy(call) {
        room.proxied.push(call)
        call.answer.begin(200, { 'content-type': 'text/plain' })
        call.answer.end()
      },
      async mcp(call) {
        room.proxied.push(call)
        call.answer.begin(200, { 'content-type': 'application/json' })
        call.answer.end()
      },
    },
    connector: {
      async issueLink({ person: of, upstream: to, returnTo }) {
        room.linked.push({ person: of, upstream: to.name, returnTo })
        return {
          url: `${publicUrl}/connect/CNRY-ticket`,
          expiresAt: new Date(clock.now().getTime() + 600_000),
        }
      },
      offerLink: async () => `${publicUrl}/connect/CNRY-ticket`,
      view: async ({ ticket, person: of }) => room.view(ticket, of),
      confirm: async ({ ticket }) => room.confirm(ticket),
      async complete({ params, browser, person: of }) {
        room.completed.push({ params: params.toString(), browser, person: of })
        return { redirectTo: room.complete() }
      },
    },
    activity: {
      async page(filter) {
        room.filters.push(filter)
        return { records: room.records, next: undefined }
      },
      find: async (id) => room.records.find((record) => record.id === id),
      lastUses: async () => new Map(),
    },
    activityProof: {
      verifier: { verify: () => room.verify() },
      signer: { keys: async () => room.signingKeys },
    },
    activityReports: {
      summarize: async () => [],
      async *export() {},
    },
    activityFeed: { follow: async () => undefined },
    readiness: (['database', 'spool', 'keys'] as const).map((name) => ({
      name,
      isReady: () => room.ready[name],
    })),
    metrics: {
      contentType: 'text/plain; version=0.0.4',
      text: async () => 'onbehalf_resolve_total{outcome="success"} 1\n',
    },
    ...overrides,
  }

  return { app: createApp(httpServices).app, room, services: httpServices }
}

function csrfOf(session: string): string {
  return createHash('sha256').update(session).digest('base64url')
}

function refuse(...of: ConstructorParameters<typeof BrokerError>): never {
  throw new BrokerError(...of)
}

/** A request to resolve. */
export function resolveWith(
  { app }: Pick<HttpRoom, 'app'>,
  body: unknown,
  options: { readonly key?: string; readonly headers?: Record<string, string> } = {},
): Promise<Response> {
  return Promise.resolve(
    app.request('/api/v1/resolve', {
      method: 'POST',
      headers: {
        authorization: `Bearer ${options.key ?? serviceKey}`,
        'content-type': 'application/json',
        ...options.headers,
      },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    }),
  )
}

export type ProblemBody = {
  type: string
  title: string
  status: number
  code: string
  request_id: string
  detail?: string
  field?: string
  reason?: string
  connect_url?: string
}

export async function problemOf(response: Response): Promise<ProblemBody> {
  if (!response.headers.get('content-type')?.startsWith('application/problem+json')) {
    throw new Error(`not a problem: ${response.status} ${await response.text()}`)
  }
  return (await response.json()) as ProblemBody
}
