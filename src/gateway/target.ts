/** Percent-encoding can be nested; what is still encoded after this many turns is refused. */
const deepestEncoding = 4

/**
 * The request target for what a caller wrote behind a gateway path, below the base of the upstream. It is joined as text and
 * sent as it came, so that `%2F` inside of a name stays what it is. Undefined where it could leave the base for any reader: dot segments,
 * empty segments, backslashes and control characters in any encoding, and `..;` which some servers take for `..`.
 */
export function targetBelow(base: URL, tail: string): string | undefined {
  const mark = tail.indexOf('?')
  const path = mark === -1 ? tail : tail.slice(0, mark)
  const query = mark === -1 ? base.search : tail.slice(mark)
  if (path !== '' && !path.startsWith('/')) return undefined
  if (!isPlain(path) || !isPlain(query) || !staysBelow(path)) return undefined
  const basePath = path === '' ? base.pathname : base.pathname.replace(/\/+$/, '')
  return `${basePath}${path}${query}`
}

/** Visible ASCII without what no URL holds; a fragment is never sent (RFC 9110 §4.2.5). */
function isPlain(text: string): boolean {
  return /^[\x21-\x7e]*$/.test(text) && !text.includes('#')
}

function staysBelow(path: string): boolean {
  let decoded = path
  for (let turn = 0; turn <= deepestEncoding; turn += 1) {
    if (!hasPlainSegments(decoded)) return false
    const next = decodeOnce(decoded)
    if (next === undefined) return false
    if (next === decoded) return true
    decoded = next
  }
  return false
}

function hasPlainSegments(path: string): boolean {
  // oxlint-disable-next-line no-control-regex
  if (/[\x00-\x1f\x7f\\]/.test(path)) return false
  // The last segment may be empty: a trailing slash means something.
  const segments = path.split('/').slice(1)
  return segments.every((segment, index) => {
    const [name] = segment.split(';', 1)
    if (segment === '') return index === segments.length - 1
    return name !== '.' && name !== '..'
  })
}

function decodeOnce(path: string): string | undefined {
  try {
    return decodeURIComponent(path)
  } catch {
    return undefined
  }
}
