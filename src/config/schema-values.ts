import * as z from 'zod'
import { namesLoopback } from '../core/loopback-url.ts'
import { isScopeToken } from '../core/scope-token.ts'
import { Secret } from '../core/secret.ts'

/*
 * The kinds of values that settings have. `standIn` in the metadata is a value that passes: it takes the place of one that
 * does not, so that the checks over several fields can still run and every problem is said at once.
 */

const secondsPerUnit: Readonly<Record<string, number>> = { s: 1, m: 60, h: 3600, d: 86_400 }
const maxDurationSeconds = 3650 * 86_400

function readDuration(written: string): number {
  return Number(written.slice(0, -1)) * (secondsPerUnit[written.slice(-1)] ?? Number.NaN)
}

/** Seconds, written as a whole number and a unit. */
export function duration(bounds: { atLeast?: string; atMost?: string } = {}) {
  const least = readDuration(bounds.atLeast ?? '0s')
  const most = bounds.atMost === undefined ? maxDurationSeconds : readDuration(bounds.atMost)
  return z
    .string()
    .regex(/^\d{1,9}[smhd]$/, 'must be a duration such as "60s", "10m", "12h" or "90d"')
    .meta({ examples: [bounds.atMost ?? (least > 60 ? bounds.atLeast : '60s')] })
    .transform(readDuration)
    .refine((seconds) => seconds >= least, `must be at least ${bounds.atLeast ?? '0s'}`)
    .refine((seconds) => seconds <= most, `must be at most ${bounds.atMost ?? '3650d'}`)
}

/** `strict`, `none`, or a grace time. */
export function refreshReuse() {
  return z
    .string()
    .regex(
      /^(strict|none|\d{1,6}[smhd])$/,
      'must be strict, none or a duration such as "30s" (grace)',
    )
    .transform((written) =>
      written === 'strict' || written === 'none'
        ? ({ kind: written } as const)
        : ({ kind: 'grace', graceSeconds: readDuration(written) } as const),
    )
}

const bytesPerUnit: Readonly<Record<string, number>> = { KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 }

/** Bytes, written as a whole number and `KiB`, `MiB` or `GiB`. */
export function size() {
  return z
    .string()
    .regex(/^\d{1,6}(KiB|MiB|GiB)$/, 'must be a size such as "64MiB" or "1GiB"')
    .meta({ examples: ['64MiB'] })
    .transform(
      (written) => Number(written.slice(0, -3)) * (bytesPerUnit[written.slice(-3)] ?? Number.NaN),
    )
    .refine((bytes) => bytes >= 1024 ** 2, 'must be at least 1MiB')
}

const noControlCharacters = /^\P{Cc}*$/u

export function text() {
  return z
    .string()
    .min(1, 'must not be empty')
    .refine(
      (value) => noControlCharacters.test(value),
      'must be one line without control characters',
    )
    .meta({ standIn: 'x' })
}

export function secret() {
  return z
    .string()
    .min(1, 'must not be empty')
    .transform((value) => new Secret(value))
}

/** A list that may be written as its only item. */
export function oneOrMany<Item extends z.ZodType<string, string>>(item: Item) {
  return z
    .union([item, z.array(item).min(1, 'must not be empty')], {
      error: 'must be text or a list of texts, without empty ones',
    })
    .transform((value): string[] => (Array.isArray(value) ? value : [value]))
}

/** An OAuth scope token (RFC 6749 §3.3). */
export function scope() {
  return z
    .string()
    .refine(isScopeToken, 'must be one scope without spaces; several go into a list')
    .meta({ standIn: 'x' })
}

function parseHttpUrl(value: string): URL | undefined {
  // The URL parser drops tabs and line breaks and takes backslashes for slashes; what is written must be what is meant.
  if (!/^https?:\/\/[^/]/.test(value) || /[\s\p{Cc}\\#]/u.test(value)) return undefined
  if (!URL.canParse(value)) return undefined
  const url = new URL(value)
  return url.username === '' && url.password === '' ? url : undefined
}

const urlExpectation = 'must be an http(s) URL without user name, password or fragment'

export function httpUrl() {
  return z
    .string()
    .refine((value) => parseHttpUrl(value) !== undefined, urlExpectation)
    .meta({ standIn: 'https://stand-in.invalid' })
}

/** An issuer identifier (RFC 8414 §2): kept as it is written, because tokens repeat it to the letter. */
export function issuerUrl() {
  return z
    .string()
    .refine(
      (value) => parseHttpUrl(value) !== undefined && !value.includes('?'),
      'must be an http(s) URL without user name, password, query or fragment, exactly as the issuer writes it',
    )
    .meta({ standIn: 'https://stand-in.invalid' })
}

/** A resource identifier (RFC 8707 §2): an absolute URI without a fragment. */
export function resourceUri() {
  return z
    .string()
    .refine(
      (value) => !/[\s\p{Cc}#]/u.test(value) && URL.canParse(value),
      'must be an absolute URI without a fragment',
    )
}

/** An origin, without a trailing slash in the result; plain http for loopback only. */
export function origin() {
  return z
    .string()
    .refine((value) => {
      const url = parseHttpUrl(value)
      return url !== undefined && url.pathname === '/' && !value.includes('?')
    }, 'must be an origin such as https://broker.example.com, without path, query, fragment, user name or password')
    .transform((value) => new URL(value).origin)
    .refine(
      (value) => isHttps(value) || namesLoopback(new URL(value)),
      'must be https; plain http is for loopback only',
    )
    .meta({ standIn: 'https://stand-in.invalid' })
}

export function isHttps(url: string): boolean {
  return url.startsWith('https://')
}

/** Says the length of a key that has another one: it is no secret, and tells a key in hex from one that was cut. */
function describeKey(written: unknown): string {
  const expectation = 'must be the base64 of 32 bytes, as `onbehalf keys generate` prints it'
  if (typeof written !== 'string') return expectation
  const bytes = Buffer.from(written, 'base64')
  const isBase64 = bytes.length > 0 && bytes.toString('base64') === written
  if (!isBase64 || bytes.length === 32) return expectation
  return `${expectation}; this is the base64 of ${bytes.length} ${bytes.length === 1 ? 'byte' : 'bytes'}`
}

/** Base64 of exactly 32 bytes, as `onbehalf keys generate` prints it. */
export function encryptionSecret() {
  return z
    .string()
    .refine(
      (value) =>
        /^[A-Za-z0-9+/]{43}=$/.test(value) &&
        Buffer.from(value, 'base64').toString('base64') === value,
      { error: ({ input }) => describeKey(input) },
    )
    .transform((value) => new Secret(value))
    .meta({ standIn: `${'A'.repeat(43)}=` })
}

export function serviceKey() {
  return z
    .string()
    .min(32, 'must have 32 characters or more')
    .refine(
      (value) => /^[\x21-\x7e]*$/.test(value),
      'must be printable ASCII without spaces, because it travels in a header',
    )
    .transform((value) => new Secret(value))
    .meta({ standIn: 'x'.repeat(32) })
}

/** Ids of ours that stand in records and answers. */
export function id() {
  return z
    .string()
    .refine(
      (value) => /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/.test(value),
      'must be 1 to 64 letters, digits, dots, dashes or underscores',
    )
    .meta({ standIn: 'x' })
}
