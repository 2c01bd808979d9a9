import { namesLoopback } from '../core/loopback-url.ts'
import type { Path, Report } from './problem.ts'
import { isHttps } from './schema-values.ts'

/**
 * Refuses plain http outside loopback and `allow_private_network`: tokens and secrets travel to these URLs
 * (RFC 9700 §2.6).
 */
export function requireSafeTransport(
  url: string | undefined,
  path: Path,
  allow: { readonly allowed: boolean; readonly setting: Path },
  report: Report,
): void {
  if (url === undefined || allow.allowed || isHttps(url) || namesLoopback(new URL(url))) return
  report.problem(
    path,
    'must be https; plain http is for loopback, or with allow_private_network: true',
    [path, allow.setting],
  )
}
