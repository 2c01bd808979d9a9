/**
 * Whether a URL that a server named may be asked or shown. `javascript:` and its kin would run in the person's browser on our
 * page; a fragment is never part of an endpoint (RFC 6749 §3).
 */
export function isUsableUrl(url: string | undefined, plainHttp: boolean): url is string {
  if (url === undefined || url.length > 2048 || !URL.canParse(url)) return false
  const { protocol, username, password, hash } = new URL(url)
  const isHttp = protocol === 'https:' || (protocol === 'http:' && plainHttp)
  return isHttp && username === '' && password === '' && hash === ''
}
