/** Of one connection only (RFC 9110 §7.6.1), besides those that `Connection` names. */
const hopByHop: readonly string[] = [
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-connection',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]

/** What a caller says about itself or its way here: an upstream would believe that we say it. */
const notSentUp: ReadonlySet<string> = new Set([
  ...hopByHop,
  'authorization',
  'cookie',
  'dpop',
  'expect',
  'forwarded',
  'host',
  'proxy-authorization',
  'remote-user',
  'x-real-ip',
])
const notSentUpPrefixes: readonly string[] = [
  'x-auth-request-',
  'x-forwarded-',
  'x-onbehalf-',
  'x-original-',
  'x-remote-',
]

/** What an upstream must not say to a browser, or to a client of ours, in our name. */
const notPassedBack: ReadonlySet<string> = new Set([
  ...hopByHop,
  'alt-svc',
  'clear-site-data',
  'refresh',
  'set-cookie',
  'set-cookie2',
  'strict-transport-security',
  'www-authenticate',
])
const notPassedBackPrefix = 'access-control-'

/**
 * The headers of a call as the upstream gets them: names and values by turns, in their order, with the credential as the last.
 * `received` is the head as it came, the same way.
 */
export function headersUp(
  received: readonly string[],
  call: {
    /** The caller's own token: no header that holds it goes up, whatever its name. */
    readonly inboundToken: string
    readonly credential: { readonly header: string; readonly value: string }
    /** Further names, in lower case, that are not the caller's to send. */
    readonly withheld: ReadonlySet<string> | undefined
    /** Names and values by turns, besides those of the caller. */
    readonly added: readonly string[] | undefined
    /** The length of the body is told by whoever sends it. */
    readonly isCounted: boolean
  },
): string[] {
  const injected = call.credential.header.toLowerCase()
  const named = namedByConnection(received)
  const headers: string[] = []
  for (let index = 0; index + 1 < received.length; index += 2) {
    const name = received[index] ?? ''
    const value = received[index + 1] ?? ''
    const key = name.toLowerCase()
    if (key === injected || named.has(key) || isWithheld(key)) continue
    if (call.withheld?.has(key) === true || (call.isCounted && key === 'content-length')) continue
    if (value.includes(call.inboundToken)) continue
    headers.push(name, value)
  }
  if (call.added !== undefined) headers.push(...call.added)
  // Last and once: nothing that a caller sends stands beside it.
  headers.push(call.credential.header, call.credential.value)
  return headers
}

function isWithheld(name: string): boolean {
  // Many servers read `X_Forwarded_For` as `X-Forwarded-For`.
  if (name.includes('_') || notSentUp.has(name)) return true
  return notSentUpPrefixes.some((prefix) => name.startsWith(prefix))
}

/** The headers of an answer as the caller gets them. */
export function headersBack(
  received: Readonly<Record<string, string | readonly string[] | undefined>>,
): Record<string, string | string[]> {
  const named = namesIn(received['connection'])
  const headers: Record<string, string | string[]> = {}
  for (const name of Object.keys(received)) {
    const value = received[name]
    if (value === undefined) continue
    if (notPassedBack.has(name) || name.startsWith(notPassedBackPrefix) || named.has(name)) continue
    headers[name] = typeof value === 'string' ? value : [...value]
  }
  // What a browser would run at our address gets an origin of its own.
  if (isHtml(received['content-type'])) headers['content-security-policy'] = 'sandbox'
  headers['x-content-type-options'] ??= 'nosniff'
  return headers
}

function isHtml(contentType: string | readonly string[] | undefined): boolean {
  return /\b(?:html|svg|xml)\b/i.test(String(contentType ?? ''))
}

function namedByConnection(received: readonly string[]): ReadonlySet<string> {
  let values: string[] | undefined
  for (let index = 0; index + 1 < received.length; index += 2) {
    const name = received[index]
    if (name?.length !== 10 || name.toLowerCase() !== 'connection') continue
    values ??= []
    values.push(received[index + 1] ?? '')
  }
  return namesIn(values)
}

const none: ReadonlySet<string> = new Set()

function namesIn(values: string | readonly string[] | undefined): ReadonlySet<string> {
  if (values === undefined) return none
  const text = typeof values === 'string' ? values : values.join(',')
  return new Set(text.split(',').map((name) => name.trim().toLowerCase()))
}
