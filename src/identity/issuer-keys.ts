import { createPublicKey, type JsonWebKey, type KeyObject } from 'node:crypto'
import { BrokerError } from '../core/errors.ts'
import type { Clock } from '../core/ports/clock.ts'
import { type Claims, isObject } from './claims.ts'
import type { IdentityLog } from './identity-log.ts'
import { discoverIssuer, endpointOf } from './issuer-metadata.ts'
import { IssuerFailure, type IssuerNetwork } from './issuer-network.ts'

/** A public key of an issuer. `retired` once a later fetch came without it: what it verified is not to be trusted any more. */
export type IssuerKey = {
  readonly keyId: string | undefined
  /** The only algorithm it may be used with, where the issuer names one. */
  readonly algorithm: string | undefined
  readonly publicKey: KeyObject
  retired: boolean
}

/** The signing keys of one issuer (RFC 7517), kept in memory. */
export interface IssuerKeys {
  /**
   * The key of this id that fits the algorithm; without an id, the only one that fits. Undefined when the issuer has none.
   * @throws BrokerError issuer_unavailable when that cannot be told because its keys cannot be had.
   */
  find(keyId: string | undefined, algorithm: string): Promise<IssuerKey | undefined>

  /** Whether there are usable keys, after fetching them where there are none and a try is due. Never rejects. */
  probe(): Promise<boolean>
}

const refreshAfterMs = 10 * 60_000
/** An outage of the issuer keeps nobody out for this long. */
const usableForMs = 24 * 60 * 60_000
const unknownKeyPauseMs = 30_000
const rediscoverAfterMs = 60 * 60_000
const longestFirstPauseMs = 15_000
const smallestRsaBits = 2048
const maxKeyIdLength = 256

type KeySet = { readonly keys: readonly IssuerKey[]; readonly fetchedAtMs: number }

/**
 * Keys are fetched at first use, again in the background once they are 10 minutes old, and at once for the first unknown key
 * id after a fetch; further unknown ids cause at most one fetch every 30 s, so that made-up ids cannot turn us against the
 * issuer. A failed fetch leaves the last good set in place for a day.
 */
export function createIssuerKeys(options: {
  readonly issuer: string
  /** Discovered from the issuer when absent. */
  readonly jwksUri: string | undefined
  readonly network: IssuerNetwork
  readonly clock: Clock
  readonly log: IdentityLog | undefined
}): IssuerKeys {
  const { issuer, network, clock, log } = options
  let current: KeySet | undefined
  let running: Promise<KeySet> | undefined
  let failures = 0
  /** When the next try is due after a failure. */
  let nextTryAtMs = 0
  let unknownKeyIsFree = true
  let unknownKeyFetchAtMs = Number.NEGATIVE_INFINITY
  let discovered: { readonly url: string; readonly atMs: number } | undefined

  const nowMs = () => clock.now().getTime()

  function usableSet(now: number): KeySet | undefined {
    return current !== undefined && now - current.fetchedAtMs < usableForMs ? current : undefined
  }

  /** Joins the fetch that is under way, or starts one. */
  function fetchKeys(): Promise<KeySet> {
    running ??= fetchOnce().finally(() => {
      running = undefined
    })
    return running
  }

  async function fetchOnce(): Promise<KeySet> {
    try {
      const answer = await network.getJson(await keysUrl())
      const keys = readKeys(answer, current?.keys ?? [])
      current = { keys, fetchedAtMs: nowMs() }
      failures = 0
      nextTryAtMs = 0
      return current
    } catch (cause) {
      if (!(cause instanceof IssuerFailure)) throw cause
      failures += 1
      discovered = undefined
      nextTryAtMs = nowMs() + pauseMs()
      log?.warn({ event: 'issuer_keys_unavailable', issuer, failure: cause.kind })
      throw unavailable(cause)
    }
  }

  /** With keys in hand there is no hurry. Without any, every person of this issuer waits for the next try. */
  function pauseMs(): number {
    if (usableSet(nowMs()) !== undefined) return unknownKeyPauseMs
    return Math.min(1000 * 2 ** (failures - 1), longestFirstPauseMs)
  }

  async function keysUrl(): Promise<string> {
    if (options.jwksUri !== undefined) return options.jwksUri
    if (discovered === undefined || nowMs() - discovered.atMs > rediscoverAfterMs) {
      const url = endpointOf(await discoverIssuer(network, issuer), 'jwks_uri', network)
      discovered = { url, atMs: nowMs() }
    }
    return discovered.url
  }

  function unavailable(cause?: unknown): BrokerError {
    const retryAfterSeconds = Math.max(1, Math.ceil((nextTryAtMs - nowMs()) / 1000))
    return new BrokerError('issuer_unavailable', { retryAfterSeconds, cause })
  }

  async function firstSet(): Promise<KeySet> {
    if (running === undefined && nowMs() < nextTryAtMs) throw unavailable()
    return fetchKeys()
  }

  async function afterUnknownKey(now: number): Promise<KeySet | undefined> {
    if (running !== undefined) return fetchKeys()
    const due = unknownKeyIsFree || now - unknownKeyFetchAtMs >= unknownKeyPauseMs
    if (due) {
      unknownKeyIsFree = false
      unknownKeyFetchAtMs = now
      return fetchKeys()
    }
    // The keys in hand may be old: nobody can say that this key is not the issuer's.
    if (failures > 0) throw unavailable()
    return undefined
  }

  function refreshWhenOld(set: KeySet, now: number): void {
    if (now - set.fetchedAtMs < refreshAfterMs || now < nextTryAtMs || running !== undefined) return
    unknownKeyIsFree = true
    // Nobody waits for it, and its failure is in the log.
    fetchKeys().catch(() => {})
  }

  async function find(keyId: string | undefined, algorithm: string) {
    if (keyId !== undefined && keyId.length > maxKeyIdLength) return undefined
    const now = nowMs()
    const set = usableSet(now)
    if (set === undefined) return select(await firstSet(), keyId, algorithm)
    refreshWhenOld(set, now)
    const known = select(set, keyId, algorithm)
    if (known !== undefined) return known
    const fetched = await afterUnknownKey(now)
    return fetched === undefined ? undefined : select(fetched, keyId, algorithm)
  }

  async function probe(): Promise<boolean> {
    const set = usableSet(nowMs())
    if (set !== undefined) return true
    return firstSet().then(
      () => true,
      () => false,
    )
  }

  return { find, probe }
}

function select(set: KeySet, keyId: string | undefined, algorithm: string): IssuerKey | undefined {
  const fitting = set.keys.filter(
    (key) => (keyId === undefined || key.keyId === keyId) && fits(key, algorithm),
  )
  // Two keys of one id: there is no telling which one the issuer means.
  return fitting.length === 1 ? fitting[0] : undefined
}

/**
 * The usable keys of a set; a key that was there before stays the same object, one that is gone is retired. @throws
 * IssuerFailure unreadable when the answer is no key set.
 */
function readKeys(answer: Claims, before: readonly IssuerKey[]): readonly IssuerKey[] {
  const members = answer['keys']
  if (!Array.isArray(members)) throw new IssuerFailure('unreadable')
  const keys: IssuerKey[] = []
  for (const member of members) {
    const key = readKey(member)
    if (key === undefined || keys.some((other) => isSameKey(other, key))) continue
    keys.push(before.find((known) => isSameKey(known, key)) ?? key)
  }
  for (const known of before) known.retired = !keys.includes(known)
  return keys
}

/** Keys for encryption, symmetric, private, weak and unreadable ones are left out. */
function readKey(member: unknown): IssuerKey | undefined {
  if (!isObject(member)) return undefined
  const { kty, use, key_ops: operations, kid, alg } = member
  if (kty === 'oct' || Object.hasOwn(member, 'd') || Object.hasOwn(member, 'k')) return undefined
  if (use !== undefined && use !== 'sig') return undefined
  if (operations !== undefined && !(Array.isArray(operations) && operations.includes('verify'))) {
    return undefined
  }
  try {
    const publicKey = createPublicKey({ key: member as JsonWebKey, format: 'jwk' })
    return {
      keyId: typeof kid === 'string' ? kid : undefined,
      algorithm: typeof alg === 'string' ? alg : undefined,
      publicKey,
      retired: false,
    }
  } catch {
    return undefined
  }
}

function isSameKey(a: IssuerKey, b: IssuerKey): boolean {
  return a.keyId === b.keyId && a.algorithm === b.algorithm && a.publicKey.equals(b.publicKey)
}

const curveOf: Readonly<Record<string, string>> = {
  ES256: 'prime256v1',
  ES384: 'secp384r1',
  ES512: 'secp521r1',
}

/** Whether a key can make signatures of this algorithm, judged by the key, so that a header cannot choose another use of it. */
function fits(key: IssuerKey, algorithm: string): boolean {
  if (key.algorithm !== undefined && plainName(key.algorithm) !== plainName(algorithm)) return false
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = key.publicKey
  if (/^[RP]S(256|384|512)$/.test(algorithm)) {
    return type === 'rsa' && (details?.modulusLength ?? 0) >= smallestRsaBits
  }
  if (plainName(algorithm) === 'EdDSA') return type === 'ed25519'
  return (
    type === 'ec' && details?.namedCurve !== undefined && details.namedCurve === curveOf[algorithm]
  )
}

/** RFC 9864 renamed EdDSA over Ed25519. */
function plainName(algorithm: string): string {
  return algorithm === 'Ed25519' ? 'EdDSA' : algorithm
}
