import type { Actor, Person } from '../core/caller.ts'
import { BrokerError } from '../core/errors.ts'
import type { Session } from '../core/ports/authenticator.ts'
import type { Cookies } from './cookies.ts'
import { refuseUnprovenWrite } from './cross-site.ts'
import type { HttpContext } from './http-env.ts'
import type { ActivityReader, HttpServices } from './services.ts'
import { withChallenge } from './with-challenge.ts'

/** A person at the REST API. `presentsToken`: the request came with a bearer that could be exchanged. */
export type PersonCaller = { readonly person: Person; readonly presentsToken: boolean }

/**
 * Who is calling. Handlers have no other way to a person, and every way here ends in a caller or in a throw: a refused token
 * never falls through to a cookie or to nobody.
 */
export type Callers = {
  /** A bearer of a configured issuer, or else the cookie of a browser session. */
  readonly person: (c: HttpContext) => Promise<PersonCaller>
  readonly activityReader: (c: HttpContext) => Promise<ActivityReader>
  readonly admin: (c: HttpContext) => Promise<Administrator>
  /** An admin, or a service that may offboard people. */
  readonly offboarder: (c: HttpContext) => Promise<Administrator>
  /** The browser session, for pages; undefined where there is none. */
  readonly session: (c: HttpContext) => Promise<Session | undefined>
}

/** Who administers, as records name them. */
export type Administrator = { readonly actor: Actor }

export function createCallers(
  ports: Pick<HttpServices, 'authenticator' | 'challenge' | 'publicUrl' | 'signIn'> & {
    readonly cookies: Cookies
  },
): Callers {
  const { authenticator, challenge, cookies, publicUrl, signIn } = ports
  const nobody = challenge({ error: undefined, scopes: [] })
  const badToken = challenge({ error: 'invalid_token', scopes: [] })

  async function session(c: HttpContext): Promise<Session | undefined> {
    const value = cookies.session(c)
    return value === undefined ? undefined : signIn?.find(value)
  }

  async function person(c: HttpContext): Promise<PersonCaller> {
    const token = bearerOf(c)
    if (token !== undefined) return { person: await verified(token), presentsToken: true }
    const found = await session(c)
    if (found === undefined) throw new BrokerError('unauthenticated', { challenge: nobody })
    refuseUnprovenWrite(c, { publicUrl, csrfToken: undefined })
    return { person: found.person, presentsToken: false }
  }

  async function verified(token: string): Promise<Person> {
    // A service key is no person's token, and is sent nowhere: not to an introspection endpoint either.
    if (authenticator.findService(token) !== undefined) {
      throw new BrokerError('unauthenticated', { challenge: badToken })
    }
    try {
      return await authenticator.verifyBearer(token, { kind: 'api' })
    } catch (error) {
      throw withChallenge(error, challenge)
    }
  }

  async function activityReader(c: HttpContext): Promise<ActivityReader> {
    const token = bearerOf(c)
    const service = token === undefined ? undefined : authenticator.findService(token)
    if (service !== undefined) {
      if (!service.mayReadActivity) throw new BrokerError('forbidden')
      return { kind: 'service', id: service.id }
    }
    const caller = await person(c)
    if (!caller.person.admin) throw new BrokerError('forbidden')
    return { kind: 'admin', person: caller.person }
  }

  async function admin(c: HttpContext): Promise<Administrator> {
    const caller = await person(c)
    if (!caller.person.admin) throw new BrokerError('forbidden')
    return { actor: { kind: 'admin', id: caller.person.userId } }
  }

  async function offboarder(c: HttpContext): Promise<Administrator> {
    const token = bearerOf(c)
    const service = token === undefined ? undefined : authenticator.findService(token)
    if (service === undefined) return admin(c)
    if (!service.mayOffboard) throw new BrokerError('forbidden')
    return { actor: { kind: 'service', id: service.id } }
  }

  /** The bearer of the request; undefined where the header is absent or of another scheme. */
  function bearerOf(c: HttpContext): string | undefined {
    const header = c.req.header('authorization')
    refuseQueryToken(c.req.url, header !== undefined || cookies.session(c) !== undefined)
    if (header === undefined) return undefined
    const token = parseBearer(header)
    if (token === undefined) {
      // The caller tried to say who it is: no other proof is looked at.
      throw new BrokerError('unauthenticated', {
        challenge: sendsToken(header) ? badToken : nobody,
      })
    }
    return token
  }

  return { person, activityReader, admin, offboarder, session }
}

/**
 * Reads `Bearer <token>` (RFC 6750 §2.1). Undefined for anything else.
 * @throws BrokerError invalid_request for two headers, which arrive here joined by a comma and a blank.
 */
export function parseBearer(header: string): string | undefined {
  const token = /^bearer +(\S+)$/i.exec(header)?.[1]
  if (token !== undefined) return token
  if (header.includes(', ')) {
    throw new BrokerError('invalid_request', {
      field: 'Authorization',
      expectation: 'Send one Authorization header.',
    })
  }
  return undefined
}

/** Whether a header that `parseBearer` could not read was meant to carry a token at all. */
export function sendsToken(header: string | undefined): boolean {
  return header !== undefined && /^bearer +\S/i.test(header)
}

const tokenParameters: readonly string[] = ['access_token', 'token']

/**
 * A token in a query string ends in logs and histories, so it is never read (RFC 6750 §5.3).
 * @throws BrokerError invalid_request when the caller also says otherwise who it is.
 */
export function refuseQueryToken(url: string, sentOtherwise: boolean): void {
  const query = url.indexOf('?')
  if (query === -1) return
  // Decoded: `access%5Ftoken` is the same name.
  const sent = new URLSearchParams(url.slice(query + 1))
  if (!tokenParameters.some((name) => sent.has(name))) return
  // Alone it is as good as nothing, which the caller's 401 says.
  if (!sentOtherwise) return
  throw new BrokerError('invalid_request', {
    field: 'access_token',
    expectation: 'A token belongs into the Authorization header, never into the query.',
  })
}
