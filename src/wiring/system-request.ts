import { randomUUID } from 'node:crypto'
import { systemActor } from '../core/caller.ts'
import type { CredentialKey } from '../core/credential.ts'
import type { ResolveRequest } from '../core/ports/broker-services.ts'
import type { Upstream } from '../core/upstream.ts'

/** A renewal that nobody called for. */
export function systemRequest(
  key: CredentialKey,
  upstream: Upstream,
  startedAt: Date,
): ResolveRequest {
  const { issuer, userId } = key
  return {
    person: { issuer, userId, email: undefined, roles: [], admin: false, identity: 'token' },
    subjectToken: undefined,
    service: undefined,
    actor: systemActor,
    upstream,
    rejected: undefined,
    requestId: randomUUID(),
    startedAt,
  }
}
