import type { AuditAction, AuditReason } from './audit-event.ts'
import { systemActor } from './caller.ts'
import type { CredentialKey } from './credential.ts'
import { BrokerError } from './errors.ts'
import { AcquisitionFailure } from './failure-verdict.ts'
import type { AuditSink } from './ports/audit-sink.ts'
import type { RefusalRecorder, ResolveRequest } from './ports/broker-services.ts'
import type { Clock } from './ports/clock.ts'
import { methodOfMode, type Upstream } from './upstream.ts'

/** Leaves the records of resolutions: one a call, in the words of the activity log. */
export interface ResolutionRecorder extends RefusalRecorder {
  succeeded(request: ResolveRequest, action: AuditAction): void
  failed(request: ResolveRequest, action: AuditAction, error: unknown): void
  /** The caller who started a renewal went on without it; what comes of it is the system's own doing. */
  whenDone(
    request: ResolveRequest,
    action: 'acquire' | 'refresh',
    renewal: Promise<{ readonly asked: boolean }>,
  ): void
  /** A renewal whose call died with an earlier process was stored after all: the system's own doing. */
  recovered(key: CredentialKey, upstream: Upstream): void
  /** A stored row that does not open is the operator's business, besides the failed call. */
  corrupt(request: ResolveRequest): void
}

const assertedDetails = { identity: 'asserted' } as const
const tokenDetails = { identity: 'token' } as const

export function createResolutionRecorder(ports: {
  readonly audit: AuditSink
  /** A UUID for what no request asked for. */
  readonly newRequestId: () => string
  readonly clock: Clock
}): ResolutionRecorder {
  const { audit, newRequestId, clock } = ports

  function recordCall(
    request: ResolveRequest,
    action: AuditAction,
    reason: AuditReason | undefined,
  ): void {
    const { person, upstream } = request
    // Written out: spreading an object here cost more than all the rest of a record (4 µs of CPU a warm call).
    audit.record({
      requestId: request.requestId,
      startedAt: request.startedAt,
      userId: person.userId,
      issuer: person.issuer,
      upstream: upstream.name,
      method: methodOfMode[upstream.credential.mode],
      actor: request.actor,
      action,
      outcome: reason === undefined ? 'success' : 'failure',
      reason,
      details: person.identity === 'asserted' ? assertedDetails : tokenDetails,
    })
  }

  return {
    admit: () => audit.admit(),
    succeeded: (request, action) => recordCall(request, action, undefined),
    settled: () => audit.settled(),
    failed: (request, action, error) => recordCall(request, action, auditReasonOf(error)),
    whenDone(request, action, renewal) {
      const requestId = newRequestId()
      const recordEnd = (reason: AuditReason | undefined) =>
        audit.record({
          ...subjectOf(request),
          // An operation of its own: the call has left its one record.
          requestId,
          actor: systemActor,
          action,
          outcome: reason === undefined ? 'success' : 'failure',
          reason,
        })
      renewal.then(
        ({ asked }) => {
          if (asked) recordEnd(undefined)
        },
        (error: unknown) => {
          if (wasAsked(error)) recordEnd(auditReasonOf(error))
        },
      )
    },
    recovered({ issuer, userId }, upstream) {
      audit.record({
        requestId: newRequestId(),
        startedAt: clock.now(),
        userId,
        issuer,
        upstream: upstream.name,
        method: methodOfMode[upstream.credential.mode],
        actor: systemActor,
        action: 'refresh',
        outcome: 'success',
        reason: undefined,
      })
    },
    corrupt(request) {
      audit.record({
        ...subjectOf(request),
        type: 'administration',
        actor: systemActor,
        action: 'credential_corrupt',
        outcome: 'failure',
        reason: 'credential_corrupt',
      })
    },
    refused({ person, upstream, ...refusal }) {
      audit.record({
        ...refusal,
        upstream: upstream?.name,
        userId: person?.userId,
        issuer: person?.issuer,
        action: 'inject',
        method: upstream === undefined ? 'unknown' : methodOfMode[upstream.credential.mode],
        outcome: 'failure',
        ...(person === undefined ? {} : { details: { identity: person.identity } }),
      })
    },
  }
}

function subjectOf(request: ResolveRequest) {
  const { person, upstream, requestId, startedAt } = request
  return {
    requestId,
    startedAt,
    userId: person.userId,
    issuer: person.issuer,
    upstream: upstream.name,
    method: methodOfMode[upstream.credential.mode],
  }
}

/** Whether a failure is a server's answer, or its silence: what was never sent is no operation. */
function wasAsked(error: unknown): boolean {
  return error instanceof Error && error.cause instanceof AcquisitionFailure
}

/** The record's reason for a refusal. */
export function auditReasonOf(error: unknown): AuditReason {
  if (!(error instanceof BrokerError)) return 'internal_error'
  switch (error.code) {
    case 'connect_required':
      return error.details.reason ?? 'not_connected'
    case 'credential_corrupt':
    case 'insufficient_scope':
    case 'invalid_subject_token':
    case 'issuer_unavailable':
    case 'policy_denied':
    case 'storage_unavailable':
    case 'unknown_upstream':
    case 'upstream_misconfigured':
    case 'upstream_not_allowed':
    case 'upstream_unavailable':
      return error.code
    case 'audit_unavailable':
    case 'connect_link_invalid':
    case 'connect_wrong_person':
    case 'forbidden':
    case 'internal_error':
    case 'invalid_request':
    case 'method_not_allowed':
    case 'not_connectable':
    case 'not_found':
    case 'payload_too_large':
    case 'too_many_streams':
    case 'unauthenticated':
    case 'upstream_redirect':
    case 'upstream_rejected_credential':
    case 'upstream_timeout':
      return 'internal_error'
  }
}
