/** A JSON answer that a browser opens as a page can do nothing and be framed by nobody. */
const jsonPolicy = "default-src 'none'; frame-ancestors 'none'; sandbox"

/** Of every answer that does not say otherwise itself. */
export function securityHeaders(publicUrl: string): Readonly<Record<string, string>> {
  return {
    'cache-control': 'no-store',
    'content-security-policy': jsonPolicy,
    'cross-origin-opener-policy': 'same-origin',
    'cross-origin-resource-policy': 'same-origin',
    'permissions-policy': 'camera=(), geolocation=(), microphone=(), payment=(), usb=()',
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
    'x-frame-options': 'DENY',
    // One year, this host only: what other hosts of the domain do is not ours to decide.
    ...(publicUrl.startsWith('https:') ? { 'strict-transport-security': 'max-age=31536000' } : {}),
  }
}

/**
 * The policy of a page: our own style sheet, no script at all. `formTargets` are the sources besides our own that a form may
 * lead to: Chromium applies `form-action` to every redirect that follows the form, not only to its address.
 */
export function pagePolicy(formTargets: readonly string[] = []): string {
  const formAction = ["'self'", ...formTargets].join(' ')
  return `default-src 'none'; style-src 'self'; img-src 'self'; form-action ${formAction}; base-uri 'none'; frame-ancestors 'none'`
}
