import { hash, randomUUID } from 'node:crypto'
import type { Credential, CredentialKey } from '../core/credential.ts'
import { BrokerError, isBrokerError } from '../core/errors.ts'
import { strictLeaseSeconds } from '../core/lease.ts'
import type {
  CredentialRecord,
  CredentialRecords,
  NewCredentialRecord,
  TakenRecord,
} from '../core/ports/credential-records.ts'
import type {
  ClaimTerms,
  CredentialStore,
  NewCredential,
  StoredConnection,
  TakenCredential,
} from '../core/ports/credential-store.ts'
import type { Sealer, SealingContext } from '../core/ports/sealer.ts'
import type { Secret } from '../core/secret.ts'

type TokenField = Extract<SealingContext, { table: 'credential' }>['field']

const plainTerms: ClaimTerms = {
  repeatable: false,
  leaseSeconds: strictLeaseSeconds,
  forced: false,
}

/** The CredentialStore over rows that hold sealed bytes only. Its leases belong to this instance: make one a process. */
export function createCredentialStore(ports: {
  readonly records: CredentialRecords
  readonly sealer: Sealer
}): CredentialStore {
  const { records, sealer } = ports
  const leaseOwner = randomUUID()

  return {
    async find(key) {
      const record = await records.find(key)
      if (record === undefined) return undefined
      return { connection: connectionOf(record), credential: openCredential(record) }
    },

    list: (person) => records.list(person),

    async put(key, credential) {
      const generation = await records.nextGeneration()
      const record = await records.put(key, sealNew(key, generation, credential))
      if (record === undefined) return findLater(key)
      return toCredential(record, credential.tokens.accessToken)
    },

    async putArrived(key, { name, generation }, { rejected = false, ...credential }) {
      const sealed = sealNew(key, generation, credential)
      const record = await records.putArrived(key, sealed, { name, rejected })
      return record && toCredential(record, credential.tokens.accessToken)
    },

    countForced: (key, generation) => records.countForced(key, generation),

    async claimRenewal(key, generation, terms = plainTerms) {
      const claimed = await records.claim(key, generation, { ...terms, leaseOwner })
      if (claimed === undefined) return undefined
      const { sealedRefreshToken, ...claim } = claimed
      try {
        const refreshToken = open(sealedRefreshToken, key, 'refresh_token', generation)
        return { generation, ...claim, forced: terms.forced, refreshToken }
      } catch (error) {
        // Nothing was sent. Without this, callers would hear of a lease instead of the fault.
        const { leaseEpoch, failCount, afterLostAnswer } = claim
        await records.releaseLease(
          key,
          { generation, leaseEpoch, afterLostAnswer },
          { failure: 'unavailable', failCount, retryInSeconds: 0, outcomeKnown: true },
        )
        throw error
      }
    },

    async lookAtRenewal(key, terms = plainTerms) {
      const looked = await records.look(key, terms)
      if (looked === undefined) return undefined
      const { record, renewal } = looked
      return { connection: connectionOf(record), credential: openCredential(record), renewal }
    },

    async commitRenewal(key, claim, { tokens, scopes }) {
      const generation = claim.nextGeneration
      // A refresh token that goes on is sealed again, because the generation is bound into it.
      const refreshToken = tokens.refreshToken ?? claim.refreshToken
      const record = await records.commit(key, claim.generation, {
        generation,
        scopes,
        account: tokens.account,
        sealedAccessToken: seal(tokens.accessToken, key, 'access_token', generation),
        sealedRefreshToken: seal(refreshToken, key, 'refresh_token', generation),
        expiresAt: tokens.expiresAt,
        forgetsOld: claim.forced,
      })
      return record && toCredential(record, tokens.accessToken)
    },

    foreseeRenewal: (current, claim, { tokens, scopes, obtainedAt }) => ({
      ...current,
      generation: claim.nextGeneration,
      accessToken: tokens.accessToken,
      fingerprint: fingerprintOf(tokens.accessToken),
      scopes,
      obtainedAt,
      expiresAt: tokens.expiresAt,
      renewable: true,
      renewed: true,
    }),

    async failRenewal(key, claim, failure) {
      switch (failure.kind) {
        case 'reconnect':
          return records.endConnection(key, claim, failure.reason)
        case 'retry':
          return records.releaseLease(key, claim, failure)
      }
    },

    async take(key) {
      const taken = await records.take(key)
      return taken && openTaken(taken, key)
    },

    async offboard(person) {
      const { cutAt, taken } = await records.offboard(person)
      return {
        cutAt,
        taken: taken.map((record) => {
          const { upstream } = record
          return { ...openTaken(record, { ...person, upstream }), upstream }
        }),
      }
    },
  }

  function openTaken(taken: TakenRecord, key: CredentialKey): TakenCredential {
    const { generation, method, binding } = taken
    const refreshToken = tryOpen(taken.sealedRefreshToken, key, 'refresh_token', generation)
    if (refreshToken !== undefined) {
      return { method, binding, token: refreshToken, hint: 'refresh_token' }
    }
    const accessToken = tryOpen(taken.sealedAccessToken, key, 'access_token', generation)
    if (accessToken !== undefined) {
      return { method, binding, token: accessToken, hint: 'access_token' }
    }
    return { method, binding, token: undefined }
  }

  function sealNew(
    key: CredentialKey,
    generation: number,
    { tokens, method, scopes, audience, binding, renewed }: NewCredential,
  ): NewCredentialRecord {
    const { accessToken, refreshToken, account, expiresAt } = tokens
    return {
      generation,
      method,
      scopes,
      audience,
      account,
      binding,
      sealedAccessToken: seal(accessToken, key, 'access_token', generation),
      sealedRefreshToken: refreshToken && seal(refreshToken, key, 'refresh_token', generation),
      expiresAt,
      renewed,
    }
  }

  /** What is there instead of a credential that came too late: the row has a later generation, or had one and is gone. */
  async function findLater(key: CredentialKey): Promise<Credential> {
    const record = await records.find(key)
    const credential = record && openCredential(record)
    if (credential === undefined) {
      throw new BrokerError('connect_required', { reason: record?.reason ?? 'not_connected' })
    }
    return credential
  }

  function openCredential(record: CredentialRecord): Credential | undefined {
    if (record.status === 'reconnect_required') return undefined
    // A connected row always has one.
    if (record.sealedAccessToken === undefined) throw new BrokerError('credential_corrupt')
    const { sealedAccessToken, generation } = record
    return toCredential(record, open(sealedAccessToken, record, 'access_token', generation))
  }

  function seal(text: Secret, key: CredentialKey, field: TokenField, generation: number): Buffer {
    return sealer.seal(text, contextOf(key, field, generation))
  }

  function open(
    sealed: Uint8Array,
    key: CredentialKey,
    field: TokenField,
    generation: number,
  ): Secret {
    return sealer.open(sealed, contextOf(key, field, generation))
  }

  function tryOpen(
    sealed: Uint8Array | undefined,
    key: CredentialKey,
    field: TokenField,
    generation: number,
  ): Secret | undefined {
    if (sealed === undefined) return undefined
    try {
      return open(sealed, key, field, generation)
    } catch (error) {
      if (isBrokerError(error, 'credential_corrupt')) return undefined
      throw error
    }
  }
}

/** Names an access token without giving a way back to it; the same on every replica. */
function fingerprintOf(accessToken: Secret): string {
  return hash('sha256', `onbehalf fingerprint ${accessToken.reveal()}`, 'base64url').slice(0, 22)
}

function contextOf(key: CredentialKey, field: TokenField, generation: number): SealingContext {
  const { issuer, userId, upstream } = key
  return { table: 'credential', field, issuer, userId, upstream, generation }
}

function connectionOf(record: CredentialRecord): StoredConnection {
  const { renewed: _renewed, sealedAccessToken: _sealed, ...connection } = record
  return connection
}

function toCredential(record: CredentialRecord, accessToken: Secret): Credential {
  return {
    generation: record.generation,
    accessToken,
    fingerprint: fingerprintOf(accessToken),
    method: record.method,
    scopes: record.scopes,
    audience: record.audience,
    obtainedAt: record.obtainedAt,
    expiresAt: record.expiresAt,
    renewable: record.renewable,
    renewed: record.renewed,
    binding: record.binding,
  }
}
