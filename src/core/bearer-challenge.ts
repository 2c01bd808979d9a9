import { isScopeToken } from './scope-token.ts'

/** What a server says to whoever comes without a token, or with one that is not enough (RFC 6750 §3, RFC 9728 §5.1). */
export type BearerChallenge = {
  /** Why a token was refused (RFC 6750 §3.1), for example `insufficient_scope`. */
  readonly error: string | undefined
  readonly resourceMetadata: string | undefined
  readonly scopes: readonly string[] | undefined
}

const maxLength = 8192

// A scheme, or a parameter of the scheme before it; its value is a token or a quoted string (RFC 9110 §11.2).
const part =
  /[\s,]*(?:([!#$%&'*+.^_`|~\w-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))|([!#$%&'*+.^_`|~\w-]+)(?=[\s,]|$))/y

/** Reads the first `Bearer` challenge of a `WWW-Authenticate`, several of which may stand in one line; undefined without one. */
export function readBearerChallenge(header: string | undefined): BearerChallenge | undefined {
  if (header === undefined || header.length > maxLength) return undefined
  let parameters: Map<string, string> | undefined
  part.lastIndex = 0
  for (let found = part.exec(header); found !== null; found = part.exec(header)) {
    const [, name, quoted, plain, scheme] = found
    if (scheme !== undefined) {
      if (parameters !== undefined) break
      if (scheme.toLowerCase() === 'bearer') parameters = new Map()
    } else if (name !== undefined && parameters !== undefined) {
      const value = quoted === undefined ? (plain ?? '') : quoted.replaceAll(/\\(.)/g, '$1')
      if (!parameters.has(name.toLowerCase())) parameters.set(name.toLowerCase(), value)
    }
  }
  if (parameters === undefined) return undefined
  const scope = parameters.get('scope')
  return {
    error: parameters.get('error'),
    resourceMetadata: parameters.get('resource_metadata'),
    scopes: scope === undefined ? undefined : readScopes(scope.split(' ')),
  }
}

const maxScopes = 100
const longestScope = 256

/** Scopes that may be asked for (RFC 6749 §3.3); what is none is left out. Undefined where none is left. */
export function readScopes(values: readonly string[]): readonly string[] | undefined {
  const scopes = values.filter((value) => isScopeToken(value) && value.length <= longestScope)
  return scopes.length === 0 ? undefined : [...new Set(scopes)].slice(0, maxScopes)
}
