import { expect, it } from 'vitest'
import type { AuditRecord } from '../../../src/core/audit-event.ts'
import { createMetrics } from '../../../src/metrics/metrics.ts'

const stats = { depth: 0, bytes: 0, ageSeconds: 0, dropped: 0 }
const sink = { admit() {}, record() {}, settled: () => undefined }

const ofService: AuditRecord = {
  requestId: '0192f0c1-2345-7abc-8def-0123456789ab',
  startedAt: new Date(),
  userId: 'ada',
  issuer: 'https://login.example.com',
  actor: { kind: 'service', id: 'edge' },
  upstream: 'files',
  action: 'inject',
  method: 'connect',
  outcome: 'success',
  reason: undefined,
}

it('counts the resolutions of services, and neither what people do nor the offboarding by a service', async () => {
  const metrics = createMetrics({ auditStats: () => stats })
  const counted = metrics.countRecords(sink)
  counted.record(ofService)
  counted.record({ ...ofService, outcome: 'failure', reason: 'policy_denied' })
  counted.record({ ...ofService, actor: { kind: 'user', id: 'ada' } })
  counted.record({ ...ofService, type: 'administration', action: 'offboard', method: 'unknown' })
  const text = await metrics.text()
  expect(text).toContain('onbehalf_resolve_total{outcome="success"} 1')
  expect(text).toContain('onbehalf_resolve_total{outcome="failure"} 1')
})
