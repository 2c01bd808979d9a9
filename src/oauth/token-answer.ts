import * as z from 'zod'
import type { TokenSet } from '../core/credential.ts'
import type { OutboundResponse } from '../core/ports/http-client.ts'
import { isScopeToken } from '../core/scope-token.ts'
import { Secret } from '../core/secret.ts'
import { accountOfIdToken, displayName } from './account.ts'

/** What was asked of a token endpoint; the same answer means different things to them. */
export type GrantKind = 'refresh' | 'code' | 'exchange'

/** What a server says went wrong. Words are compared with ours and never go further. */
export type TokenError = {
  readonly error: string | undefined
  readonly suberror: string | undefined
  /** Entra's numbers. */
  readonly codes: readonly number[]
  /** A challenge to pass on with the next sign-in: the text of a JSON object, 4 KiB at most. */
  readonly claims: Secret | undefined
}

export type TokenAnswer =
  | { readonly kind: 'tokens'; readonly tokens: TokenSet }
  | { readonly kind: 'error'; readonly error: TokenError }
  | { readonly kind: 'unreadable' }

export type TokenAnswerRules = {
  readonly grant: GrantKind
  /** When the request was made: lifetimes count from there, so that a slow answer makes no token live longer. */
  readonly requestedAt: Date
  readonly tokenAnswerMember: string | undefined
  readonly defaultLifetimeSeconds: number
}

const maxLifetimeSeconds = 3650 * 86_400
const maxClaimsBytes = 4096

/**
 * Reads a token endpoint's answer the way servers send it rather than the way RFC 6749 §5.1 writes it: JSON or a form, a
 * failure with status 200, lifetimes as text, scopes with commas, no token type. What could harm is refused all the same:
 * tokens that would break a header, and token types that are not used as a bearer's.
 */
export function readTokenAnswer(response: OutboundResponse, rules: TokenAnswerRules): TokenAnswer {
  const members = parseBody(response.body)
  if (members === undefined) return { kind: 'unreadable' }
  if (saysError(members)) return { kind: 'error', error: readError(members) }
  if (response.status < 200 || response.status > 299) return { kind: 'unreadable' }
  const tokens = readTokens(members, rules)
  return tokens === undefined ? { kind: 'unreadable' } : { kind: 'tokens', tokens }
}

type Members = Readonly<Record<string, unknown>>

function parseBody(body: string): Members | undefined {
  const text = body.replace(/^\uFEFF/, '').trim()
  if (text.startsWith('{')) return parseJsonObject(text)
  // Some servers send a form whatever was accepted, and not all of them say so in the content type.
  return /^[\w.-]+=/.test(text) ? Object.fromEntries(new URLSearchParams(text)) : undefined
}

function parseJsonObject(text: string): Members | undefined {
  try {
    const parsed: unknown = JSON.parse(text)
    return isObject(parsed) ? parsed : undefined
  } catch {
    // The error quotes the answer; nothing of it may travel on.
    return undefined
  }
}

function isObject(value: unknown): value is Members {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Success is not the status code: GitHub and Slack refuse with 200. */
function saysError(members: Members): boolean {
  const error = own(members, 'error')
  const hasError = error !== undefined && error !== null && error !== '' && error !== false
  return hasError || own(members, 'ok') === false
}

/** A member of the answer itself: `constructor` and its kin are not part of any answer. */
function own(members: Members, name: string): unknown {
  return Object.hasOwn(members, name) ? members[name] : undefined
}

const word = z.string().max(100).optional().catch(undefined)

const errorMembers = z.object({
  error: word,
  suberror: word,
  error_codes: z.array(z.coerce.number().int()).max(20).optional().catch(undefined),
  claims: z.string().optional().catch(undefined),
})

function readError(members: Members): TokenError {
  const { error, suberror, error_codes, claims } = errorMembers.parse(members)
  return { error, suberror, codes: error_codes ?? [], claims: readClaims(claims) }
}

/** Only a small JSON object is passed on to an authorization endpoint (OpenID Connect Core §5.5). */
function readClaims(claims: string | undefined): Secret | undefined {
  if (claims === undefined || Buffer.byteLength(claims) > maxClaimsBytes) return undefined
  return parseJsonObject(claims) === undefined ? undefined : new Secret(claims)
}

// Anything else would end or split the header that carries it (RFC 6750 §2.1 allows even less).
const token = z.string().regex(/^[\x21-\x7e]{1,16384}$/)

const tokenMembers = z.object({
  access_token: token,
  refresh_token: z.union([token, z.literal('').transform(() => undefined)]).nullish(),
  token_type: z.string().nullish().catch(undefined),
  expires_in: z.unknown().optional().transform(lifetimeOf),
  scope: z.unknown().optional().transform(scopesOf),
  id_token: z.string().optional().catch(undefined),
  id: z.string().optional().catch(undefined),
})

function readTokens(members: Members, rules: TokenAnswerRules): TokenSet | undefined {
  const nested = nestedAnswer(members, rules.tokenAnswerMember)
  const parsed = tokenMembers.safeParse(nested ?? members)
  if (!parsed.success || !isUsableType(parsed.data.token_type, rules)) return undefined
  const { access_token, refresh_token, expires_in, scope, id_token, id } = parsed.data
  const refreshToken =
    refresh_token === undefined || refresh_token === null ? undefined : refresh_token
  const isRenewable = refreshToken !== undefined || rules.grant === 'refresh'
  const seconds = expires_in ?? (isRenewable ? rules.defaultLifetimeSeconds : undefined)
  return {
    accessToken: new Secret(access_token),
    refreshToken: refreshToken === undefined ? undefined : new Secret(refreshToken),
    expiresAt:
      seconds === undefined ? undefined : new Date(rules.requestedAt.getTime() + seconds * 1000),
    scopes: scope,
    account: accountOfIdToken(id_token) ?? (nested === undefined ? undefined : displayName(id)),
  }
}

/** Slack puts a person's token one object down after a code, and at the top after a refresh. */
function nestedAnswer(members: Members, name: string | undefined): Members | undefined {
  const nested = name === undefined ? undefined : own(members, name)
  return isObject(nested) && Object.hasOwn(nested, 'access_token') ? nested : undefined
}

/**
 * A type that we do not understand must not be used (RFC 6749 §7.1): `mac` and `DPoP` tokens need a proof with every request.
 * `N_A` says that an exchanged token is no access token by itself (RFC 8693 §2.2.1), which its upstream must know. A Slack
 * `bot` token is one for all people, so it is nobody's credential.
 */
function isUsableType(type: string | null | undefined, rules: TokenAnswerRules): boolean {
  switch ((type ?? '').trim().toLowerCase()) {
    case '':
    case 'bearer':
      return true
    case 'n_a':
      return rules.grant === 'exchange'
    case 'user':
      return rules.tokenAnswerMember !== undefined
    default:
      return false
  }
}

/** Whole seconds, at least one; undefined when the server names none, or one that makes no sense. */
function lifetimeOf(value: unknown): number | undefined {
  const isNumeric = typeof value === 'string' && /^\s*\d+(\.\d+)?\s*$/.test(value)
  const seconds = isNumeric ? Number(value) : value
  if (typeof seconds !== 'number' || !(seconds > 0)) return undefined
  return Math.min(maxLifetimeSeconds, Math.max(1, Math.floor(seconds)))
}

/** Scopes between spaces or commas, or in a list; undefined when nothing readable is said. */
function scopesOf(value: unknown): readonly string[] | undefined {
  const list: unknown = typeof value === 'string' ? value.split(/[\s,]+/) : value
  if (!Array.isArray(list)) return undefined
  const scopes = list.filter((scope) => scope !== '')
  return scopes.length > 0 && scopes.length <= 500 && scopes.every(isScope)
    ? [...new Set(scopes)]
    : undefined
}

const longestScope = 256

/** Short enough to be shown, too. */
function isScope(scope: unknown): scope is string {
  return typeof scope === 'string' && isScopeToken(scope) && scope.length <= longestScope
}
