import { randomUUID } from 'node:crypto'
import type { PersonId } from '../core/caller.ts'
import { isBrokerError } from '../core/errors.ts'
import type { Sealer, SealingContext } from '../core/ports/sealer.ts'
import type { SessionRecords, SignInTokenRecord } from '../core/ports/session-records.ts'
import type { Secret } from '../core/secret.ts'
import type { IdentityLog } from './identity-log.ts'
import type { LoginTokens } from './oidc-client.ts'

type Field = Extract<SealingContext, { table: 'sign_in_token' }>['field']

/** What a sign-in left, opened. */
export type SignInToken = {
  readonly generation: number
  readonly accessToken: Secret
  readonly accessTokenExpiresAt: Date | undefined
  readonly idToken: Secret | undefined
  readonly idTokenExpiresAt: Date | undefined
  readonly refreshToken: Secret | undefined
}

/** The tokens that sign-ins left, sealed at rest. */
export interface SignInTokens {
  /** Undefined when there is none, or none that opens. */
  find(person: PersonId): Promise<SignInToken | undefined>

  /** Stores what a sign-in brought; a refresh token goes on where the issuer gave none again. */
  put(person: PersonId, tokens: LoginTokens, begunAt: Date): Promise<void>

  /** Stores what a refresh brought, where nobody else did. What the answer left out goes on. False when somebody did. */
  replace(person: PersonId, before: SignInToken, tokens: LoginTokens): Promise<boolean>

  /** Takes the turn to refresh this generation, over all replicas. False when another has it. */
  claim(person: PersonId, generation: number): Promise<boolean>

  /** Gives the turn back: nothing was stored, and the next may try. */
  release(person: PersonId, generation: number): Promise<void>

  /** Forgets the refresh token of this generation. */
  dropRefreshToken(person: PersonId, generation: number): Promise<void>
}

export function createSignInTokens(ports: {
  readonly records: SessionRecords
  readonly sealer: Sealer
  readonly log: IdentityLog | undefined
}): SignInTokens {
  const { records, sealer, log } = ports

  const leaseOwner = randomUUID()

  const find: SignInTokens['find'] = async (person) => {
    const record = await records.findSignInToken(person)
    if (record === undefined) return undefined
    try {
      return open(person, record)
    } catch (error) {
      if (!isBrokerError(error, 'credential_corrupt')) throw error
      // As good as none: the next sign-in replaces it.
      log?.warn({ event: 'sign_in_token_unusable', issuer: person.issuer, failure: 'corrupt' })
      return undefined
    }
  }

  function open(person: PersonId, record: SignInTokenRecord): SignInToken {
    const { generation, accessTokenExpiresAt, idTokenExpiresAt } = record
    const opened = (sealed: Uint8Array | undefined, field: Field) =>
      sealed && sealer.open(sealed, contextOf(person, field, generation))
    return {
      generation,
      accessToken: sealer.open(
        record.sealedAccessToken,
        contextOf(person, 'access_token', generation),
      ),
      accessTokenExpiresAt,
      idToken: opened(record.sealedIdToken, 'id_token'),
      idTokenExpiresAt,
      refreshToken: opened(record.sealedRefreshToken, 'refresh_token'),
    }
  }

  /** Everything is sealed again, because the generation is bound into each value. */
  async function seal(
    person: PersonId,
    tokens: LoginTokens,
    before: Pick<SignInToken, 'idToken' | 'idTokenExpiresAt' | 'refreshToken'> | undefined,
  ): Promise<SignInTokenRecord> {
    const generation = await records.nextGeneration()
    const sealed = (token: Secret | undefined, field: Field) =>
      token && sealer.seal(token, contextOf(person, field, generation))
    return {
      generation,
      sealedAccessToken: sealer.seal(
        tokens.accessToken,
        contextOf(person, 'access_token', generation),
      ),
      accessTokenExpiresAt: tokens.accessTokenExpiresAt,
      sealedIdToken: sealed(tokens.idToken?.text ?? before?.idToken, 'id_token'),
      idTokenExpiresAt: tokens.idToken?.expiresAt ?? before?.idTokenExpiresAt,
      sealedRefreshToken: sealed(tokens.refreshToken ?? before?.refreshToken, 'refresh_token'),
    }
  }

  const put: SignInTokens['put'] = async (person, tokens, begunAt) => {
    // Google, for one, gives a refresh token at the first sign-in only.
    const before = tokens.refreshToken === undefined ? await find(person) : undefined
    await records.putSignInToken(person, await seal(person, tokens, before), begunAt)
  }

  const replace: SignInTokens['replace'] = async (person, before, tokens) =>
    records.replaceSignInToken(person, before.generation, await seal(person, tokens, before))

  return {
    find,
    put,
    replace,
    claim: (person, generation) => records.claimSignInToken(person, generation, leaseOwner),
    release: (person, generation) => records.releaseSignInToken(person, generation, leaseOwner),
    dropRefreshToken: (person, generation) => records.dropRefreshToken(person, generation),
  }
}

function contextOf(person: PersonId, field: Field, generation: number): SealingContext {
  const { issuer, userId } = person
  return { table: 'sign_in_token', field, issuer, userId, generation }
}
