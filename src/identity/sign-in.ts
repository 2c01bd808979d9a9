import { createHash, createHmac, randomBytes } from 'node:crypto'
import type { Person } from '../core/caller.ts'
import { isFromExpectedIssuer, parseCallbackParameters } from '../core/callback-parameters.ts'
import { BrokerError, isBrokerError } from '../core/errors.ts'
import type { Admins, Issuer, Login } from '../core/issuer.ts'
import type { SignIn } from '../core/ports/authenticator.ts'
import type { Sealer, SealingContext } from '../core/ports/sealer.ts'
import type { SessionRecords, SignInFlowRecord } from '../core/ports/session-records.ts'
import { isOwnPath } from '../core/return-to.ts'
import { Secret } from '../core/secret.ts'
import { type Claims, firstClaim, hasRequiredClaims, identify, isAdmin } from './claims.ts'
import type { LoginTokens, OidcClient } from './oidc-client.ts'
import type { SignInTokens } from './sign-in-tokens.ts'

/**
 * Signs people in by browser at the login issuer. All state is in the database, so a sign-in that one replica began is
 * finished by another, and a session holds across restarts. Cookie values, states and browsers are stored as hashes.
 */
export function createSignIn(options: {
  readonly login: Login
  /** The entry of `identity.issuers` with the login's issuer: it says which claims make the person. */
  readonly issuer: Issuer
  readonly admins: Admins
  readonly client: OidcClient
  readonly tokens: SignInTokens
  readonly records: SessionRecords
  readonly sealer: Sealer
}): SignIn {
  const { login, issuer, admins, client, tokens: signInTokens, records, sealer } = options

  const start: SignIn['start'] = async ({ returnTo, browser, claims }) => {
    if (!isOwnPath(returnTo)) {
      throw new BrokerError('invalid_request', {
        field: 'return_to',
        expectation: 'A path of the broker.',
      })
    }
    const state = randomText()
    const nonce = randomText()
    const codeVerifier = randomText()
    const url = await client.authorizationUrl({ state, nonce, codeVerifier, claims })
    const stateHash = hashOf(state)
    const seal = (text: string, field: FlowField) =>
      sealer.seal(new Secret(text), contextOf(field, stateHash))
    await records.insertFlow({
      stateHash,
      browserHash: hashOf(browser),
      sealedCodeVerifier: seal(codeVerifier, 'code_verifier'),
      sealedNonce: seal(nonce, 'nonce'),
      // The address of the page that was opened: a connect link, or a code that came to the wrong browser.
      sealedReturnTo: seal(returnTo, 'return_to'),
    })
    return url
  }

  const complete: SignIn['complete'] = async ({ params, browser }) => {
    const answer = readAnswer(params)
    const flow = browser === undefined ? undefined : await takeFlow(answer.state, browser)
    if (flow === undefined) throw signInOver()
    const issuerRequired = await client.promisesIssuer()
    const expected = { expectedIssuer: login.issuer, issuerRequired }
    // Before the error counts too: an answer of another server must not say anything (RFC 9207 §2.4).
    if (!isFromExpectedIssuer(answer.iss, expected)) throw signInOver()
    if (answer.kind === 'error') throw refusedByIssuer(answer.label)
    const tokens = await client.redeem({ code: answer.code, ...flow })
    if (tokens?.idToken === undefined) throw signInOver()
    const person = await personOf(tokens, tokens.idToken.claims)
    const { begunAt } = flow
    if (login.storeSubjectToken) await signInTokens.put(person, tokens, begunAt)
    const session = randomText()
    const counts = await records.insertSession(hashOf(session), person, {
      begunAt,
      lifetimeSeconds: login.sessionSeconds,
    })
    if (!counts) throw signInOver()
    return { session, returnTo: flow.returnTo, maxAgeSeconds: login.sessionSeconds }
  }

  /** Taken before any network call, so that a replayed answer finds nothing (RFC 9700 §4.7.1). */
  async function takeFlow(state: string, browser: string) {
    const stateHash = hashOf(state)
    const flow = await records.takeFlow({ stateHash, browserHash: hashOf(browser) })
    try {
      return flow && openFlow(flow, stateHash)
    } catch (error) {
      // As good as none: the person begins again.
      if (isBrokerError(error, 'credential_corrupt')) return undefined
      throw error
    }
  }

  function openFlow(flow: SignInFlowRecord, stateHash: Uint8Array) {
    const open = (sealed: Uint8Array, field: FlowField) =>
      sealer.open(sealed, contextOf(field, stateHash)).reveal()
    return {
      returnTo: open(flow.sealedReturnTo, 'return_to'),
      nonce: open(flow.sealedNonce, 'nonce'),
      codeVerifier: open(flow.sealedCodeVerifier, 'code_verifier'),
      begunAt: flow.begunAt,
    }
  }

  /** The same rules that an access token of this issuer meets, so that both are the same person. */
  async function personOf(tokens: LoginTokens, idToken: Claims): Promise<Person> {
    const sources = [idToken]
    if (wantedClaims().some((name) => firstClaim(sources, name) === undefined)) {
      const userinfo = await client.userinfo(tokens.accessToken, idToken['sub'])
      if (userinfo !== undefined) sources.push(userinfo)
    }
    const person = identify(issuer, admins, sources)
    if (person === undefined) throw new BrokerError('unauthenticated')
    if (!hasRequiredClaims(issuer, sources)) throw new BrokerError('forbidden')
    return person
  }

  function wantedClaims(): readonly string[] {
    const { user, email, roles } = issuer.claims
    return [user, email, roles, ...Object.keys(issuer.requiredClaims)]
  }

  const find: SignIn['find'] = async (session) => {
    if (!isRandomText(session)) return undefined
    const found = await records.findSession(hashOf(session))
    // A session of an issuer that people do not sign in at any more has ended with it.
    if (found === undefined || found.issuer !== login.issuer) return undefined
    const admin = isAdmin(admins, found, found.roles)
    return {
      person: { ...found, admin, identity: 'token' },
      csrfToken: createHmac('sha256', session).update('csrf').digest('base64url'),
    }
  }

  const end: SignIn['end'] = async (session) => {
    if (isRandomText(session)) await records.deleteSession(hashOf(session))
  }

  return { start, complete, find, end }
}

function readAnswer(params: URLSearchParams) {
  try {
    return parseCallbackParameters(params)
  } catch (error) {
    if (isBrokerError(error, 'connect_link_invalid')) throw signInOver()
    throw error
  }
}

function signInOver(): BrokerError {
  return new BrokerError('invalid_request', {
    field: 'state',
    expectation:
      'There is no sign-in that this browser began within the last 10 minutes. Begin again.',
  })
}

/** The issuer's own words stay outside; ours are two: it cannot, or it will not. */
function refusedByIssuer(label: string): BrokerError {
  const isPassing = label === 'server_error' || label === 'temporarily_unavailable'
  return isPassing
    ? new BrokerError('issuer_unavailable')
    : new BrokerError('forbidden', { expectation: 'The identity provider did not sign you in.' })
}

/** 256 bits. */
function randomText(): string {
  return randomBytes(32).toString('base64url')
}

function isRandomText(value: string): boolean {
  return /^[\w-]{43}$/.test(value)
}

function hashOf(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}

type FlowField = Extract<SealingContext, { table: 'sign_in_flow' }>['field']

function contextOf(field: FlowField, stateHash: Uint8Array): SealingContext {
  return { table: 'sign_in_flow', field, stateHash }
}
