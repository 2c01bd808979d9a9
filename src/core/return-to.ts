import type { AuthorizationErrorLabel } from './callback-parameters.ts'

const longestReturnTo = 2048

/** Backslashes, control characters and blanks, which browsers turn into something else or drop. */
const unsafeCharacter = /[\\\p{Cc}\p{Z}]/u

/**
 * Whether a browser may be sent to `value` after a connect: a path of ours (one leading `/`) or a URL of a listed origin.
 * Compared as text before anything parses it, so that no two parsers can disagree about it.
 */
export function isReturnTo(value: string, origins: readonly string[]): boolean {
  if (value.length > longestReturnTo || unsafeCharacter.test(value)) return false
  return isOwnPath(value) || origins.some((origin) => isOfOrigin(value, origin))
}

/** Whether `value` is a path of ours, possibly with query and fragment. `/..//x` is none: its path begins with two slashes. */
export function isOwnPath(value: string): boolean {
  if (value.length > longestReturnTo || unsafeCharacter.test(value)) return false
  if (!value.startsWith('/') || value.startsWith('//')) return false
  try {
    return !new URL(value, 'http://own.invalid').pathname.startsWith('//')
  } catch {
    return false
  }
}

function isOfOrigin(value: string, origin: string): boolean {
  if (!value.startsWith(origin)) return false
  // Without a delimiter the origin may go on: `https://app.example.com.evil.com`, `https://app.example.com@evil.com`.
  return ['', '/', '?', '#'].includes(value.charAt(origin.length)) && URL.canParse(value)
}

/** How a connect went, as the address that the browser goes on to says it. */
export type ConnectResult =
  | { readonly connected: true }
  | { readonly error: AuthorizationErrorLabel }

/**
 * Where the browser goes after a connect: `returnTo`, a path of ours or a URL that `isReturnTo` let pass, else `/connections`,
 * with the upstream and the result added to its query.
 */
export function resultAddress(
  returnTo: string | undefined,
  upstream: string,
  result: ConnectResult,
): string {
  const target = returnTo ?? '/connections'
  const isPath = target.startsWith('/')
  const url = new URL(target, isPath ? 'http://own.invalid' : undefined)
  // The address may be one that an earlier connect led to; only one result must be read in it.
  url.searchParams.delete('connected')
  url.searchParams.delete('error')
  url.searchParams.set('upstream', upstream)
  if ('error' in result) url.searchParams.set('error', result.error)
  else url.searchParams.set('connected', '1')
  return isPath ? `${url.pathname}${url.search}${url.hash}` : url.href
}
