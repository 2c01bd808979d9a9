import type { FailureVerdict } from '../core/failure-verdict.ts'
import type { OutboundFailure, OutboundResponse } from '../core/ports/http-client.ts'
import type { GrantKind, TokenAnswer, TokenError } from './token-answer.ts'

/** What a server's error says, whatever was asked. */
type Meaning =
  | 'grant_dead'
  | 'input_refused'
  | 'misconfigured'
  | 'access_denied'
  | 'blocked_by_policy'
  | 'interaction_required'
  | 'passing'

/**
 * The verdict on a request that brought no token. By the first that applies: a status that is passing whatever the body says
 * (5xx, 429), what the server's error means, an answer without a known error (passing), a success without a readable token
 * (lost: it may have been carried out).
 */
export function verdictOfAnswer(
  response: OutboundResponse,
  answer: Exclude<TokenAnswer, { kind: 'tokens' }>,
  grant: GrantKind,
  now: Date,
): FailureVerdict {
  const { status } = response
  if (status >= 500 || status === 429) return passing(response, now)
  if (answer.kind === 'error') {
    const meaning = meaningOf(answer.error)
    if (meaning === 'passing') return passing(response, now)
    return verdictOfMeaning(meaning, grant, answer.error)
  }
  const isSuccess = status >= 200 && status <= 299
  return isSuccess ? { kind: 'retry_at', answer: 'lost' } : passing(response, now)
}

/** The verdict on a request that got no complete answer. */
export function verdictOfOutboundFailure(failure: OutboundFailure): FailureVerdict {
  return {
    kind: 'retry_at',
    answer: failure.answer,
    ...(failure.addressRefused ? { addressRefused: true } : {}),
  }
}

function passing(response: OutboundResponse, now: Date): FailureVerdict {
  const asked = response.status === 429 || response.status === 503
  const retryAfterSeconds = asked ? retryAfterOf(response.headers['retry-after'], now) : undefined
  return {
    kind: 'retry_at',
    answer: 'complete',
    ...(retryAfterSeconds === undefined ? {} : { retryAfterSeconds }),
  }
}

const maxRetryAfterSeconds = 900

/** `Retry-After` in whole seconds, 1 to 900 (RFC 9110 §10.2.3: seconds or a date); undefined without a readable one. */
export function retryAfterOf(header: string | undefined, now: Date): number | undefined {
  const text = header?.trim() ?? ''
  const seconds = /^\d+$/.test(text) ? Number(text) : secondsUntil(text, now)
  if (Number.isNaN(seconds)) return undefined
  return Math.min(maxRetryAfterSeconds, Math.max(1, seconds))
}

function secondsUntil(date: string, now: Date): number {
  // All three date forms of HTTP begin with the day's name; Date.parse alone would take `-5` for a year.
  if (!/^[A-Z][a-z]{2,8},? /.test(date)) return Number.NaN
  return Math.ceil((Date.parse(date) - now.getTime()) / 1000)
}

function verdictOfMeaning(
  meaning: Exclude<Meaning, 'passing'>,
  grant: GrantKind,
  { claims }: TokenError,
): FailureVerdict {
  switch (meaning) {
    case 'grant_dead':
      return deadGrant[grant]
    case 'input_refused':
      return refusedInput[grant]
    case 'access_denied':
      return deniedAccess[grant]
    case 'blocked_by_policy':
      return { kind: 'denied' }
    case 'misconfigured':
      return { kind: 'misconfigured' }
    case 'interaction_required':
      return { kind: 'interaction_required', ...(claims === undefined ? {} : { claims }) }
  }
}

const deadGrant: Readonly<Record<GrantKind, FailureVerdict>> = {
  refresh: { kind: 'reconnect', reason: 'refresh_failed' },
  code: { kind: 'reconnect', reason: 'not_connected' },
  exchange: { kind: 'subject_token_refused' },
}

/** `invalid_request` names a bad subject token in an exchange (RFC 8693 §2.2.2), and nothing for certain elsewhere. */
const refusedInput: Readonly<Record<GrantKind, FailureVerdict>> = {
  refresh: { kind: 'retry_at', answer: 'complete' },
  code: { kind: 'retry_at', answer: 'complete' },
  exchange: { kind: 'subject_token_refused' },
}

const deniedAccess: Readonly<Record<GrantKind, FailureVerdict>> = {
  refresh: { kind: 'retry_at', answer: 'complete' },
  code: { kind: 'reconnect', reason: 'access_denied' },
  exchange: { kind: 'denied' },
}

/**
 * What an error means. Entra's numbers come first, as they tell apart what it puts under one word; then a challenge, then
 * the words. Anything unknown is passing: no server's new word may cost people their connections.
 */
function meaningOf({ error, suberror, codes, claims }: TokenError): Meaning {
  const byNumber = entraPrecedence.find((meaning) =>
    codes.some((code) => entraMeanings.get(code) === meaning),
  )
  if (byNumber === 'blocked_by_policy') return byNumber
  if (claims !== undefined || suberror === 'consent_required') return 'interaction_required'
  return byNumber ?? meanings.get(error ?? '') ?? 'passing'
}

/** What a log may say of an error: words and numbers of our own lists only, whatever the server wrote. */
export function knownNameOf({ error, codes }: TokenError): {
  readonly oauthError: string
  readonly entraCode: number | undefined
} {
  return {
    oauthError: error !== undefined && meanings.has(error) ? error : 'other',
    entraCode: codes.find((code) => entraMeanings.has(code)),
  }
}

const meanings = mapOf<string>({
  grant_dead: [
    'invalid_grant', // RFC 6749 §5.2
    'bad_refresh_token', // GitHub
    'bad_verification_code',
    'invalid_refresh_token', // Slack
    'token_revoked',
    'token_expired',
    'account_inactive',
    'invalid_code',
    'code_already_used',
  ],
  input_refused: ['invalid_request', 'invalid_token'],
  misconfigured: [
    'invalid_client', // RFC 6749 §5.2
    'unauthorized_client',
    'unsupported_grant_type',
    'invalid_scope',
    'invalid_target', // RFC 8693 §2.2.2, RFC 8707 §2
    'incorrect_client_credentials', // GitHub
    'redirect_uri_mismatch',
    'bad_client_secret', // Slack
    'invalid_client_id',
    'bad_redirect_uri',
    'invalid_grant_type',
    'invalid_resource', // Entra
  ],
  access_denied: ['access_denied', 'unverified_user_email'],
  blocked_by_policy: [],
  interaction_required: ['interaction_required', 'consent_required', 'login_required'],
  passing: ['temporarily_unavailable', 'slow_down', 'server_error'],
})

/** https://learn.microsoft.com/entra/identity-platform/reference-error-codes */
const entraMeanings = mapOf<number>({
  blocked_by_policy: [53000, 53001, 53002, 53003, 530032],
  interaction_required: [65001, 65004, 90094, 50072, 50074, 50076, 50078, 50079, 50158, 700020],
  input_refused: [],
  grant_dead: [50013, 500133, 70000, 70008, 70043, 50089, 50132, 50133, 50173, 700082, 700084],
  misconfigured: [
    500131, 650057, 700016, 700022, 7000112, 7000114, 7000215, 7000222, 70011, 901002, 9010010,
  ],
  passing: [50033, 50196, 90006, 90012, 90024, 90033, 90055],
  access_denied: [],
})

/** Where several numbers come at once, the one that says most decides. */
const entraPrecedence: readonly Meaning[] = [
  'blocked_by_policy',
  'interaction_required',
  'misconfigured',
  'passing',
  'grant_dead',
]

function mapOf<Word>(
  words: Readonly<Record<Meaning, readonly Word[]>>,
): ReadonlyMap<Word, Meaning> {
  const map = new Map<Word, Meaning>()
  for (const [meaning, list] of Object.entries(words) as [Meaning, readonly Word[]][]) {
    for (const one of list) map.set(one, meaning)
  }
  return map
}
