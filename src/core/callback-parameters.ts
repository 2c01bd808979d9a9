import { BrokerError } from './errors.ts'
import { Secret } from './secret.ts'

/** What a denied authorization is called outside; the server's own text appears nowhere (RFC 6749 §4.1.2.1, OpenID Connect Core §3.1.2.6). */
export const authorizationErrorLabels = [
  'access_denied',
  'invalid_scope',
  'server_error',
  'temporarily_unavailable',
  'interaction_required',
  'login_required',
  'account_selection_required',
  'consent_required',
  'authorization_denied',
] as const
export type AuthorizationErrorLabel = (typeof authorizationErrorLabels)[number]

/** An authorization response whose form is right; whether it is ours is judged by its state. */
export type CallbackParameters = {
  readonly state: string
  readonly iss: string | undefined
} & (
  | { readonly kind: 'code'; readonly code: Secret }
  | { readonly kind: 'error'; readonly label: AuthorizationErrorLabel }
)

const maxParameterLength = 4096

/**
 * Reads an authorization response (RFC 6749 §4.1.2). Every parameter may come once only: with two, the one that is checked
 * need not be the one that is used. @throws BrokerError connect_link_invalid
 */
export function parseCallbackParameters(params: URLSearchParams): CallbackParameters {
  // Unknown ones too: who repeats any parameter speaks no protocol of ours (RFC 6749 §3.1).
  if (new Set(params.keys()).size !== params.size) throw invalid()
  const state = bounded(params.get('state'))
  const code = bounded(params.get('code'))
  const error = bounded(params.get('error'))
  const iss = bounded(params.get('iss'))
  if (state === undefined || state === '') throw invalid()
  if ((code === undefined) === (error === undefined)) throw invalid()
  if (error !== undefined) return { kind: 'error', state, iss, label: labelOf(error) }
  if (code === undefined || code === '') throw invalid()
  return { kind: 'code', state, iss, code: new Secret(code) }
}

/**
 * Whether an answer comes from the server that was asked (RFC 9207 §2.4): compared as it is, demanded where the server's
 * metadata promise it, and accepted without where they do not.
 */
export function isFromExpectedIssuer(
  iss: string | undefined,
  expected: { readonly expectedIssuer: string | undefined; readonly issuerRequired: boolean },
): boolean {
  if (iss === undefined) return !expected.issuerRequired
  return expected.expectedIssuer === undefined || iss === expected.expectedIssuer
}

function bounded(value: string | null): string | undefined {
  if (value !== null && value.length > maxParameterLength) throw invalid()
  return value ?? undefined
}

function labelOf(error: string): AuthorizationErrorLabel {
  return authorizationErrorLabels.find((label) => label === error) ?? 'authorization_denied'
}

function invalid(): BrokerError {
  return new BrokerError('connect_link_invalid')
}
