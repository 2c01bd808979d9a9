import { z } from '@hono/zod-openapi'
import {
  auditActions,
  auditMethods,
  auditOutcomes,
  auditReasons,
  auditTypes,
} from '../core/audit-event.ts'
import type { ActivityRecord } from '../core/ports/activity-store.ts'

/** A record on the wire. `storage/activity-text.ts` writes the same for exports. */
export const activityRecord = z
  .object({
    id: z.uuid(),
    occurred_at: z.iso.datetime(),
    request_id: z.uuid(),
    type: z.enum(auditTypes),
    user_id: z.string().nullable(),
    issuer: z.string().nullable(),
    actor: z.object({ kind: z.enum(['user', 'service', 'admin', 'system']), id: z.string() }),
    upstream: z.string().nullable(),
    action: z.enum(auditActions),
    method: z.enum(auditMethods),
    outcome: z.enum(auditOutcomes),
    reason: z.enum(auditReasons).nullable(),
    duration_ms: z.number(),
    details: z.object({ identity: z.enum(['token', 'asserted']).nullable().optional() }),
  })
  .openapi('ActivityRecord')

export function activityRecordJson(found: ActivityRecord): z.input<typeof activityRecord> {
  return {
    id: found.id,
    occurred_at: found.occurredAt.toISOString(),
    request_id: found.requestId,
    type: found.type,
    user_id: found.userId,
    issuer: found.issuer,
    actor: { kind: found.actor.kind, id: found.actor.id },
    upstream: found.upstream,
    action: found.action,
    method: found.method,
    outcome: found.outcome,
    reason: found.reason,
    duration_ms: found.durationMs,
    details: detailsJson(found),
  }
}

/** Each type has its own fields; those of a type are always there, null without a value. */
function detailsJson({ type, details }: ActivityRecord): z.input<typeof activityRecord>['details'] {
  return type === 'credential_broker' ? { identity: details.identity ?? null } : details
}
