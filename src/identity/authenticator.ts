import { hash } from 'node:crypto'
import { LRUCache } from 'lru-cache'
import { isUserId, type Person, type PersonId } from '../core/caller.ts'
import type { CutOffs } from '../core/cut-offs.ts'
import { BrokerError, isBrokerError } from '../core/errors.ts'
import type { Admins, Issuer, ServiceWithKeys } from '../core/issuer.ts'
import type { Authenticator, BearerUse } from '../core/ports/authenticator.ts'
import type { Clock } from '../core/ports/clock.ts'
import type { HttpClient } from '../core/ports/http-client.ts'
import { createLineLimit } from '../core/line-limit.ts'
import { createSingleFlight } from '../core/single-flight.ts'
import type { Upstream } from '../core/upstream.ts'
import { hasExpired, isOfAnotherKind } from './claims.ts'
import type { IdentityLog, TokenCheck } from './identity-log.ts'
import { createIntrospector, type Introspector } from './introspector.ts'
import { createIssuerKeys } from './issuer-keys.ts'
import { createIssuerNetwork } from './issuer-network.ts'
import { readJwt, type UnverifiedJwt } from './jwt.ts'
import { createJwtVerifier, type JwtVerifier, type VerifiedJwt } from './jwt-verifier.ts'
import { createServiceKeys } from './service-keys.ts'
import { TokenRefusal } from './token-refusal.ts'
import { createTokenRules, type TokenRules, type VerifiedToken } from './verified-token.ts'

/** An authenticator that can say whose keys it has. */
export type IssuerAuthenticator = Authenticator & {
  /** Per issuer that signs tokens, whether its keys are at hand; fetches them where they are not. Never rejects. */
  probe(): Promise<readonly { readonly issuer: string; readonly ready: boolean }[]>
}

const longestToken = 8192
const rememberedTokens = 20_000

/** What one issuer can be asked. */
type IssuerDoors = {
  readonly issuer: Issuer
  readonly verifier: JwtVerifier | undefined
  readonly introspector: Introspector | undefined
  /** Undefined where no keys are needed. */
  readonly probe: (() => Promise<boolean>) | undefined
}

/**
 * Says who presents an access token (RFC 6750). A token is verified once and remembered for a minute at most, never past its
 * end, under the hash of all of it; for what it serves is judged at every use, so one for upstream `a` never opens `b`.
 * @throws Error when an issuer's configuration does not go together.
 */
export function createAuthenticator(options: {
  readonly issuers: readonly Issuer[]
  readonly admins: Admins
  readonly services: readonly ServiceWithKeys[]
  readonly shareOpaqueTokens: boolean
  readonly publicUrl: string
  readonly upstreams: ReadonlyMap<string, Upstream>
  readonly http: HttpClient
  readonly cutOffs: CutOffs
  readonly clock: Clock
  readonly log?: IdentityLog
}): IssuerAuthenticator {
  const { issuers, cutOffs, clock, log } = options
  const mayLog = createLineLimit({ clock })
  const rules = createTokenRules(options)
  const doors = issuers.map((issuer, index) => openDoors(issuer, index, rules, options))
  const byIssuer = new Map(doors.map((door) => [door.issuer.issuer, door]))
  const findService = createServiceKeys(options.services)
  const introspectors = doors.flatMap(({ introspector }) => introspector ?? [])
  if (introspectors.length > 1 && !options.shareOpaqueTokens) {
    throw new Error('introspection at several issuers shows each the tokens of the others')
  }

  const verified = new LRUCache<string, VerifiedJwt>({ max: rememberedTokens })
  const flights = createSingleFlight<VerifiedJwt | TokenCheck>()
  /** By the digest and the use: reading a token costs as much as checking it, and thousands may come with one at once. */
  const afresh = createSingleFlight<VerifiedToken>()

  function verifyBearer(token: string, use: BearerUse): Person | Promise<Person> {
    // Before anything is done with it: reading a long text is work that anyone could have us do.
    if (token.length > longestToken) throw reported(refused('format'))
    const digest = hash('sha256', token, 'base64url')
    const known = rememberedJwt(digest)?.token ?? rememberedAnswer(digest)
    // A refusal is not final here: an introspection may say more than the token itself.
    if (known !== undefined && rules.refusalFor(known, use) === undefined) {
      return admitted(known)
    }
    const purpose = use.kind === 'upstream' ? use.upstream.name : ''
    return afresh
      .join(`${digest}${purpose}`, () => verifyAfresh(token, digest, use))
      .result.catch((error: unknown) => {
        throw reported(error)
      })
      .then(admitted)
  }

  /** At every use, however lately the token was verified. */
  function admitted({ person, issuedAtSeconds }: VerifiedToken): Person | Promise<Person> {
    const outcome = cutOffs.admitsBearer(person, issuedAtSeconds)
    if (outcome === true) return person
    return refuseUnless(outcome, person).then(() => person)
  }

  /** By the check alone, whoever's the token: callers that nobody knows write no more than a line each and ten seconds. */
  function reported(error: unknown): unknown {
    if (error instanceof TokenRefusal && mayLog(error.check)) {
      log?.warn({ event: 'token_refused', issuer: error.issuer, check: error.check })
    }
    return error
  }

  function rememberedJwt(digest: string): VerifiedJwt | undefined {
    const known = verified.get(digest)
    if (known === undefined || known.key?.retired === true) return undefined
    return clock.now().getTime() < known.goodUntilMs ? known : undefined
  }

  function rememberedAnswer(digest: string) {
    for (const introspector of introspectors) {
      const answer = introspector.remembered(digest)
      if (answer !== undefined && typeof answer !== 'string') return answer
    }
    return undefined
  }

  async function verifyAfresh(
    token: string,
    digest: string,
    use: BearerUse,
  ): Promise<VerifiedToken> {
    if (!/^[\x21-\x7e]+$/.test(token)) throw refused('format')
    // A service key that came in the place of a token must not end up at an introspection endpoint.
    if (findService(token) !== undefined) throw refused('format')
    const jwt = readJwt(token)
    const namedIssuer = jwt?.claims['iss']
    if (jwt === undefined || typeof namedIssuer !== 'string') {
      return askInOrder(introspectors, token, digest, use)
    }
    // Compared as it is, and only this issuer's own keys and endpoint are ever tried: no other can vouch for it.
    const door = byIssuer.get(namedIssuer)
    if (door === undefined) throw refused('issuer')
    if (isOfAnotherKind(jwt.claims)) throw refused('typ', namedIssuer)
    return verifyAt(door, { token, digest, jwt }, use)
  }

  async function verifyAt(
    { issuer, verifier, introspector }: IssuerDoors,
    { token, digest, jwt }: { token: string; digest: string; jwt: UnverifiedJwt },
    use: BearerUse,
  ): Promise<VerifiedToken> {
    let refusal: BrokerError | undefined
    if (verifier !== undefined) {
      if (hasExpired(jwt.claims, clock.now().getTime())) throw refused('expired', issuer.issuer)
      const outcome = await verifyOnce(verifier, token, digest, jwt)
      if (outcome instanceof BrokerError) refusal = outcome
      else if (typeof outcome === 'string') refusal = refused(outcome, issuer.issuer)
      else {
        const unfit = rules.refusalFor(outcome.token, use)
        if (unfit === undefined) return outcome.token
        refusal = unfit
      }
    }
    if (introspector === undefined) throw refusal ?? refused('format', issuer.issuer)
    try {
      return await askInOrder([introspector], token, digest, use)
    } catch (error) {
      // A token that is good by its signature needs no second opinion to be one that lacks a scope.
      const lacksScope = isBrokerError(refusal, 'insufficient_scope')
      throw lacksScope && isBrokerError(error, 'unauthenticated') ? refusal : error
    }
  }

  /** An issuer whose keys cannot be had is told as a value: its introspection may still answer. */
  async function verifyOnce(
    verifier: JwtVerifier,
    token: string,
    digest: string,
    jwt: UnverifiedJwt,
  ): Promise<VerifiedJwt | TokenCheck | BrokerError> {
    try {
      const known = rememberedJwt(digest)
      if (known !== undefined) return known
      const outcome = await flights.join(digest, () => verifier.verify(token, jwt)).result
      if (typeof outcome !== 'string') verified.set(digest, outcome)
      return outcome
    } catch (error) {
      if (isBrokerError(error, 'issuer_unavailable')) return error
      throw error
    }
  }

  /** Asks one issuer after the other until one stands for the token. An outage counts only when none did. */
  async function askInOrder(
    asked: readonly Introspector[],
    token: string,
    digest: string,
    use: BearerUse,
  ): Promise<VerifiedToken> {
    let outage: BrokerError | undefined
    let refusal = refused('format')
    for (const introspector of asked) {
      try {
        const answer = await introspector.ask(token, digest)
        if (typeof answer === 'string') {
          refusal = refused(answer, introspector.issuer.issuer)
          continue
        }
        const unfit = rules.refusalFor(answer, use)
        if (unfit === undefined) return answer
        throw unfit
      } catch (error) {
        if (!isBrokerError(error, 'issuer_unavailable')) throw error
        outage = error
      }
    }
    throw outage ?? refusal
  }

  function assertPerson({ issuer, userId }: PersonId): Person {
    if (!byIssuer.has(issuer)) {
      throw new BrokerError('invalid_request', {
        field: 'user.issuer',
        expectation: 'One of the configured issuers.',
      })
    }
    if (!isUserId(userId)) {
      throw new BrokerError('invalid_request', {
        field: 'user.id',
        expectation: '1 to 255 characters, none of them a control character.',
      })
    }
    // Nobody proved who this is, so it has no rights of its own: neither roles nor administration.
    return { issuer, userId, email: undefined, roles: [], admin: false, identity: 'asserted' }
  }

  async function probe() {
    const asked = doors.flatMap(({ issuer, probe: ask }) =>
      ask === undefined ? [] : [ask().then((ready) => ({ issuer: issuer.issuer, ready }))],
    )
    return Promise.all(asked)
  }

  function admitAssertion(person: PersonId): void | Promise<void> {
    const outcome = cutOffs.admitsAssertion(person)
    if (outcome === true) return undefined
    return refuseUnless(outcome, person)
  }

  async function refuseUnless(
    outcome: boolean | Promise<boolean>,
    { issuer }: PersonId,
  ): Promise<void> {
    if (!(await outcome)) throw reported(refused('cut_off', issuer))
  }

  return { verifyBearer, findService, assertPerson, admitAssertion, probe }
}

function openDoors(
  issuer: Issuer,
  index: number,
  rules: TokenRules,
  options: { readonly http: HttpClient; readonly clock: Clock; readonly log?: IdentityLog },
): IssuerDoors {
  const { http, clock, log } = options
  const { introspection } = issuer
  const network = createIssuerNetwork({
    http,
    issuer: issuer.issuer,
    written: [issuer.jwksUri, introspection?.endpoint],
    allowPrivateNetwork: issuer.allowPrivateNetwork,
    setting: `identity.issuers[${index}].allow_private_network`,
  })
  const asksAboutTokens = issuer.validation !== 'jwt'
  if (asksAboutTokens && introspection === undefined) {
    throw new Error('an issuer that is asked about tokens needs an introspection endpoint')
  }
  const introspector =
    introspection === undefined || !asksAboutTokens
      ? undefined
      : createIntrospector({ issuer, introspection, network, rules, clock, log })
  if (issuer.validation === 'introspection') {
    return { issuer, verifier: undefined, introspector, probe: undefined }
  }
  if (issuer.algorithms.includes('HS256') && issuer.secret === undefined) {
    throw new Error('HS256 needs a secret')
  }
  const keys = createIssuerKeys({
    issuer: issuer.issuer,
    jwksUri: issuer.jwksUri,
    network,
    clock,
    log,
  })
  const verifier = createJwtVerifier({ issuer, keys, rules, clock })
  const signsWithKeys = issuer.algorithms.some((algorithm) => algorithm !== 'HS256')
  return { issuer, verifier, introspector, probe: signsWithKeys ? () => keys.probe() : undefined }
}

function refused(check: TokenCheck, issuer: string | null = null): TokenRefusal {
  return new TokenRefusal(check, issuer)
}
