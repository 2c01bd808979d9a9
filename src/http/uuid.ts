const pattern = /^[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}$/i

/** Whether a text is written as an id of ours or of a request's, in either case; no matter of which version. */
export function isUuid(text: string): boolean {
  return pattern.test(text)
}
