export type Cookie = {
  readonly name: string
  readonly value: string
  /** Cookies know no ports: 127.0.0.1:8080 and 127.0.0.1:9090 share them. */
  readonly host: string
  readonly path: string
  readonly secure: boolean
  readonly httpOnly: boolean
  readonly sameSite: 'strict' | 'lax' | 'none'
  readonly expiresAtMs: number
}

/** How a request came to be, as far as SameSite asks (RFC 6265bis §5.2). */
export type CookieUse = { readonly crossSite: boolean; readonly safeMethod: boolean }

export type CookieJar = {
  /** Takes `Set-Cookie` headers as a browser does; what a browser would refuse is not kept. */
  take(url: URL, setCookies: readonly string[]): void
  /** Value of the `Cookie` header; undefined when there is nothing to send. */
  header(url: URL, use: CookieUse): string | undefined
  list(): readonly Cookie[]
  /** Puts a cookie there as it is, as somebody who stole or forged one would. */
  put(cookie: Cookie): void
  clear(): void
}

export function createCookieJar(): CookieJar {
  const cookies = new Map<string, Cookie>()

  function put(cookie: Cookie): void {
    const key = `${cookie.host} ${cookie.path} ${cookie.name}`
    if (cookie.expiresAtMs <= Date.now()) cookies.delete(key)
    else cookies.set(key, cookie)
  }

  function live(): readonly Cookie[] {
    return [...cookies.values()].filter(({ expiresAtMs }) => expiresAtMs > Date.now())
  }

  return {
    take(url, setCookies) {
      for (const line of setCookies) {
        const cookie = parseSetCookie(url, line)
        if (cookie !== undefined) put(cookie)
      }
    },
    header(url, use) {
      const sent = live()
        .filter((cookie) => goesTo(cookie, url) && isSent(cookie, use))
        .toSorted((a, b) => b.path.length - a.path.length)
      return sent.length === 0
        ? undefined
        : sent.map(({ name, value }) => `${name}=${value}`).join('; ')
    },
    list: live,
    put,
    clear: () => cookies.clear(),
  }
}

function goesTo({ host, path, secure }: Cookie, url: URL): boolean {
  const below =
    url.pathname === path || url.pathname.startsWith(path.endsWith('/') ? path : `${path}/`)
  return host === url.hostname && below && (!secure || isTrustworthy(url))
}

function isSent({ sameSite }: Cookie, { crossSite, safeMethod }: CookieUse): boolean {
  return !crossSite || sameSite === 'none' || (sameSite === 'lax' && safeMethod)
}

/** Browsers take loopback for as safe as https. */
function isTrustworthy(url: URL): boolean {
  return (
    url.protocol === 'https:' || url.hostname === 'localhost' || url.hostname.startsWith('127.')
  )
}

function parseSetCookie(url: URL, line: string): Cookie | undefined {
  const [pair = '', ...rest] = line.split(';')
  const attributes = new Map(
    rest.map((part) => splitAt(part, '=')).map(([k, v]) => [k.toLowerCase(), v]),
  )
  const [name, value] = splitAt(pair, '=')
  const path = attributes.get('path')
  const secure = attributes.has('secure')
  const domain = attributes.get('domain')
  // Servers here set no cookies for a wider domain; a browser would refuse one for another host.
  const foreign = domain !== undefined && domain.replace(/^\./, '') !== url.hostname
  const hostPrefixBroken =
    name.startsWith('__Host-') && (!secure || path !== '/' || domain !== undefined)
  if (foreign || hostPrefixBroken || (secure && !isTrustworthy(url))) return undefined
  return {
    name,
    value,
    host: url.hostname,
    path: path?.startsWith('/') === true ? path : defaultPath(url),
    secure,
    httpOnly: attributes.has('httponly'),
    sameSite: readSameSite(attributes.get('samesite')),
    expiresAtMs: readExpiry(attributes.get('max-age'), attributes.get('expires')),
  }
}

function splitAt(text: string, separator: string): [string, string] {
  const index = text.indexOf(separator)
  return index === -1
    ? [text.trim(), '']
    : [text.slice(0, index).trim(), text.slice(index + 1).trim()]
}

function defaultPath({ pathname }: URL): string {
  const end = pathname.lastIndexOf('/')
  return end <= 0 ? '/' : pathname.slice(0, end)
}

function readSameSite(value: string | undefined): Cookie['sameSite'] {
  const lower = value?.toLowerCase()
  return lower === 'strict' || lower === 'none' ? lower : 'lax'
}

function readExpiry(maxAge: string | undefined, expires: string | undefined): number {
  if (maxAge !== undefined && /^-?\d+$/.test(maxAge)) return Date.now() + Number(maxAge) * 1000
  const at = expires === undefined ? Number.NaN : Date.parse(expires)
  return Number.isNaN(at) ? Number.POSITIVE_INFINITY : at
}
