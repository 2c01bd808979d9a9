/** Whether a text is one scope (RFC 6749 §3.3): visible ASCII without spaces, quotes and backslashes, so that it may stand in a list. */
export function isScopeToken(text: string): boolean {
  return /^[\x21\x23-\x5b\x5d-\x7e]+$/.test(text)
}
