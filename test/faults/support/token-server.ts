import { randomBytes } from 'node:crypto'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo, Socket } from 'node:net'
import { canaryPrefixes } from '../../support/secret-scan.ts'

/** What the server does with a refresh token that was used: nothing changes, it works for 30 s more, or its return ends the grant. */
export type RotationRule = 'none' | 'grace' | 'strict'

export const rotationRules = ['none', 'grace', 'strict'] as const
const graceMs = 30_000

/** One person's grant, as the server sees it. */
export type Grant = {
  readonly person: string
  readonly rule: RotationRule
  /** Requests that came with a refresh token of it, whatever was answered. */
  readonly requests: number
  /** Used tokens that came back outside of a grace. */
  readonly reuses: number
  readonly revoked: boolean
  /** Most of its requests that were open at one time. */
  readonly mostOpen: number
}

type LiveGrant = {
  person: string
  rule: RotationRule
  requests: number
  reuses: number
  revoked: boolean
  open: number
  mostOpen: number
  current: string
  /** When each older token was used. */
  used: Map<string, number>
  /** Access tokens that it gave. */
  accessTokens: Set<string>
  livesSeconds: number
}

export type TokenAnswer = {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body: string
}

/** A request in the hands of a plan: nothing has happened yet. */
export type Visit = {
  readonly grant: Grant | undefined
  /** Does what the request asks for; rotation happens here. */
  readonly consume: () => TokenAnswer
  /** `bytes`: only so many of the whole answer, head included. */
  readonly send: (answer: TokenAnswer, bytes?: number) => Promise<void>
  /** Ends the connection with a reset. */
  readonly reset: () => void
}

/** What is done with one request. One that returns without a send leaves the client hanging. */
export type Plan = (visit: Visit) => Promise<void> | void

/**
 * An authorization server's token and revocation endpoint on the real wire, made to fail at exact points: rotation and reuse detection as RFC 9700
 * §4.14.2 describes them, everything counted per grant. `/{rule}/token`, `/{rule}/revoke`.
 */
export type TokenServer = {
  readonly origin: string
  /** A grant that exists already, with the refresh token that a broker is to have. */
  readonly register: (
    person: string,
    rule: RotationRule,
    livesSeconds: number,
  ) => { readonly accessToken: string; readonly refreshToken: string }
  readonly grant: (person: string) => Grant
  /** Whether an upstream would take this access token of this person now. */
  readonly accepts: (person: string, accessToken: string) => boolean
  /** The refresh token that works now. */
  readonly isCurrent: (person: string, refreshToken: string) => boolean
  /** The next request follows this plan; each plan serves one. */
  readonly next: (plan: Plan) => void
  /** Every request follows it, where no `next` waits; undefined: as it should. */
  readonly always: (plan: Plan | undefined) => void
  /** Called with each new connection before a byte of it is read. */
  readonly onConnection: (listener: ((socket: Socket) => void) | undefined) => void
  /** All requests to the token endpoint so far. */
  readonly requests: () => number
  readonly mostOpen: () => number
  /** Tokens that came to the revocation endpoint. */
  readonly revocations: () => readonly string[]
  readonly stop: () => Promise<void>
}

export async function startTokenServer(
  options: {
    /** Before every answer: the server's own time. */
    readonly latencyMs?: number
  } = {},
): Promise<TokenServer> {
  const grants = new Map<string, LiveGrant>()
  const byRefreshToken = new Map<string, LiveGrant>()
  const plans: Plan[] = []
  const revocations: string[] = []
  let plan: Plan | undefined
  let connected: ((socket: Socket) => void) | undefined
  let requests = 0
  let open = 0
  let mostOpen = 0

  function mint(prefix: string, person: string): string {
    return `${prefix}${person}.${randomBytes(24).toString('base64url')}`
  }

  function issue(grant: LiveGrant): TokenAnswer {
    const accessToken = mint(canaryPrefixes.accessToken, grant.person)
    grant.accessTokens.add(accessToken)
    let refreshToken: string | undefined
    if (grant.rule !== 'none') {
      refreshToken = mint(canaryPrefixes.refreshToken, grant.person)
      grant.used.set(grant.current, Date.now())
      grant.current = refreshToken
      byRefreshToken.set(refreshToken, grant)
    }
    return json(200, {
      access_token: accessToken,
      token_type: 'Bearer',
      expires_in: grant.livesSeconds,
      ...(refreshToken === undefined ? {} : { refresh_token: refreshToken }),
    })
  }

  function redeem(grant: LiveGrant | undefined, refreshToken: string): TokenAnswer {
    if (grant === undefined || grant.revoked) return json(400, { error: 'invalid_grant' })
    if (refreshToken === grant.current) return issue(grant)
    const usedAt = grant.used.get(refreshToken)
    const inGrace = grant.rule === 'grace' && usedAt !== undefined && Date.now() - usedAt < graceMs
    if (inGrace) return issue(grant)
    grant.reuses += 1
    grant.revoked = true
    return json(400, { error: 'invalid_grant' })
  }

  async function answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const form = new URLSearchParams(await textOf(request))
    const endpoint = request.url?.split('/').at(-1)
    if (endpoint === 'revoke') {
      const token = form.get('token') ?? ''
      revocations.push(token)
      const revoked = byRefreshToken.get(token)
      if (revoked !== undefined) revoked.revoked = true
      response.writeHead(200).end()
      return
    }
    const refreshToken = form.get('refresh_token') ?? ''
    const grant = byRefreshToken.get(refreshToken)
    requests += 1
    open += 1
    mostOpen = Math.max(mostOpen, open)
    if (grant !== undefined) {
      grant.requests += 1
      grant.open += 1
      grant.mostOpen = Math.max(grant.mostOpen, grant.open)
    }
    response.once('close', () => {
      open -= 1
      if (grant !== undefined) grant.open -= 1
    })
    const chosen = plans.shift() ?? plan ?? usual
    await chosen({
      grant,
      consume: () => redeem(grant, refreshToken),
      send: (what, bytes) => write(response, what, bytes),
      reset: () => void response.socket?.resetAndDestroy(),
    })
  }

  async function usual(visit: Visit): Promise<void> {
    const given = visit.consume()
    if (options.latencyMs !== undefined) await pause(options.latencyMs)
    await visit.send(given)
  }

  const server = createServer((request, response) => {
    answer(request, response).catch((error: unknown) => {
      // A connection that is gone is what these tests are about; anything else is a fault of the harness.
      if (!response.destroyed) console.error('the token server', error)
      response.destroy()
    })
  })
  server.keepAliveTimeout = 60_000
  server.on('connection', (socket: Socket) => connected?.(socket))
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address() as AddressInfo

  return {
    origin: `http://127.0.0.1:${port}`,
    register(person, rule, livesSeconds) {
      const accessToken = mint(canaryPrefixes.accessToken, person)
      const refreshToken = mint(canaryPrefixes.refreshToken, person)
      const before = grants.get(person)
      if (before !== undefined) {
        // Connected anew: the old token is spent, and the person is counted on.
        before.used.set(before.current, Date.now())
        before.current = refreshToken
        before.accessTokens.add(accessToken)
        byRefreshToken.set(refreshToken, before)
        return { accessToken, refreshToken }
      }
      const grant: LiveGrant = {
        person,
        rule,
        requests: 0,
        reuses: 0,
        revoked: false,
        open: 0,
        mostOpen: 0,
        current: refreshToken,
        used: new Map(),
        accessTokens: new Set([accessToken]),
        livesSeconds,
      }
      grants.set(person, grant)
      byRefreshToken.set(refreshToken, grant)
      return { accessToken, refreshToken }
    },
    grant(person) {
      const grant = grants.get(person)
      if (grant === undefined) throw new Error(`${person} has no grant`)
      return grant
    },
    accepts(person, accessToken) {
      const grant = grants.get(person)
      return grant !== undefined && !grant.revoked && grant.accessTokens.has(accessToken)
    },
    isCurrent: (person, refreshToken) => grants.get(person)?.current === refreshToken,
    next: (one) => void plans.push(one),
    always(one) {
      plan = one
    },
    onConnection(listener) {
      connected = listener
    },
    requests: () => requests,
    mostOpen: () => mostOpen,
    revocations: () => revocations,
    stop() {
      server.closeAllConnections()
      return new Promise((resolve) => server.close(() => resolve()))
    },
  }
}

export function json(
  status: number,
  body: unknown,
  headers: Readonly<Record<string, string>> = {},
): TokenAnswer {
  return {
    status,
    headers: { 'content-type': 'application/json', ...headers },
    body: JSON.stringify(body),
  }
}

/** Past node:http, so that an answer can end after any byte. */
function write(response: ServerResponse, answer: TokenAnswer, bytes?: number): Promise<void> {
  const body = Buffer.from(answer.body)
  if (bytes === undefined) {
    return new Promise((resolve) => {
      response.writeHead(answer.status, { ...answer.headers, 'content-length': body.length })
      response.end(body, resolve)
      response.once('close', resolve)
    })
  }
  const head = Object.entries({ ...answer.headers, 'content-length': String(body.length) })
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join('')
  const whole = Buffer.concat([Buffer.from(`HTTP/1.1 ${answer.status} OK\r\n${head}\r\n`), body])
  const end = bytes < 0 ? whole.length + bytes : bytes
  return new Promise((resolve) => {
    response.socket?.write(whole.subarray(0, end), () => resolve())
  })
}

async function textOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of request as AsyncIterable<Buffer>) chunks.push(chunk)
  return Buffer.concat(chunks).toString()
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms))
}
