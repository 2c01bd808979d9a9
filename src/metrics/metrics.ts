import { Counter, collectDefaultMetrics, Gauge, Registry } from 'prom-client'
import { type AuditOutcome, type AuditRecord, auditOutcomes } from '../core/audit-event.ts'
import { AcquisitionFailure } from '../core/failure-verdict.ts'
import type { AcquisitionMethod } from '../core/ports/acquisition-method.ts'
import type { AuditSink } from '../core/ports/audit-sink.ts'
import type { AuditStats } from '../core/ports/audit-stats.ts'
import type { AuthorizationClient } from '../core/ports/authorization-client.ts'

/** Prometheus metrics. Labels come from closed sets and configured names; never a person, a token or a URL. */
export interface Metrics {
  readonly contentType: string
  text(): Promise<string>
  /** Counts what the activity log is told, at the cost of one addition a call. */
  countRecords(sink: AuditSink): AuditSink
  /** Counts requests to token endpoints by upstream and result. */
  countTokenRequests(method: AcquisitionMethod): AcquisitionMethod
  /** The same for the codes that connecting redeems. */
  countCodes(client: AuthorizationClient): AuthorizationClient
  /** Counts an answer to a refresh that the journal could not keep. */
  countJournalFailure(): void
}

export function createMetrics(ports: { readonly auditStats: () => AuditStats }): Metrics {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  // Counted here and told when asked: a label looked up on every call would cost more than the call's other numbers together.
  const resolved: Record<AuditOutcome, number> = { success: 0, failure: 0 }
  const resolves = new Counter({
    name: 'onbehalf_resolve_total',
    help: 'Resolve calls of authenticated services, by outcome.',
    labelNames: ['outcome'],
    registers: [],
    collect() {
      this.reset()
      for (const outcome of auditOutcomes) this.inc({ outcome }, resolved[outcome])
    },
  })
  const refreshes = new Counter({
    name: 'onbehalf_refresh_total',
    help: 'Refresh tokens redeemed, by result.',
    labelNames: ['result'],
    registers: [registry],
  })
  const tokenRequests = new Counter({
    name: 'onbehalf_upstream_token_requests_total',
    help: "Requests to upstreams' token endpoints, by upstream and result.",
    labelNames: ['upstream', 'result'],
    registers: [registry],
  })
  const corrupt = new Counter({
    name: 'onbehalf_credential_corrupt_total',
    help: 'Stored credentials that did not open or did not belong where they stood.',
    registers: [registry],
  })
  const waiting = [
    new Gauge({
      name: 'onbehalf_audit_spool_bytes',
      help: 'Records accepted and not yet in the database, in bytes.',
      registers: [],
      collect() {
        this.set(ports.auditStats().bytes)
      },
    }),
    new Gauge({
      name: 'onbehalf_audit_spool_records',
      help: 'Records of this process accepted and not yet in the database.',
      registers: [],
      collect() {
        this.set(ports.auditStats().depth)
      },
    }),
    new Gauge({
      name: 'onbehalf_audit_spool_age_seconds',
      help: 'How long the oldest record has been on its way into the database.',
      registers: [],
      collect() {
        this.set(ports.auditStats().ageSeconds)
      },
    }),
  ]
  const journalFailures = new Counter({
    name: 'onbehalf_refresh_journal_failures_total',
    help: 'Answers to refreshes that could not be kept on the local disk before they were stored.',
    registers: [registry],
  })
  const dropped = new Counter({
    name: 'onbehalf_audit_dropped_total',
    help: 'Records that are not in the activity log: the spool was full or failed, or the database refused them.',
    registers: [],
    collect() {
      this.reset()
      this.inc(ports.auditStats().dropped)
    },
  })
  registry.registerMetric(resolves)
  for (const gauge of waiting) registry.registerMetric(gauge)
  registry.registerMetric(dropped)
  for (const result of ['success', 'failure']) refreshes.inc({ result }, 0)

  function count(record: AuditRecord): void {
    if (record.action === 'credential_corrupt') corrupt.inc()
    // A service may offboard people, too.
    const isResolve = record.actor.kind === 'service' && record.type !== 'administration'
    if (isResolve) resolved[record.outcome] += 1
  }

  async function counted<T>(upstream: string, request: () => Promise<T>): Promise<T> {
    try {
      const answer = await request()
      tokenRequests.inc({ upstream, result: 'success' })
      return answer
    } catch (error) {
      const result = error instanceof AcquisitionFailure ? error.verdict.kind : 'error'
      tokenRequests.inc({ upstream, result })
      throw error
    }
  }

  /** At the request, because a record is a call's: it does not tell a renewal that failed from a person who must connect. */
  async function countedRefresh<T>(refresh: () => Promise<T>): Promise<T> {
    try {
      const answer = await refresh()
      refreshes.inc({ result: 'success' })
      return answer
    } catch (error) {
      refreshes.inc({ result: 'failure' })
      throw error
    }
  }

  return {
    contentType: registry.contentType,
    text: () => registry.metrics(),
    countRecords: (sink) => ({
      admit: () => sink.admit(),
      record(record) {
        count(record)
        sink.record(record)
      },
      settled: () => sink.settled(),
    }),
    countTokenRequests(method) {
      const acquire = method.acquire?.bind(method)
      return {
        name: method.name,
        ...(acquire === undefined
          ? {}
          : {
              acquire: (upstream, subjectToken, watch) =>
                counted(upstream.name, () => acquire(upstream, subjectToken, watch)),
            }),
        refresh: (upstream, refreshToken, scopes, watch) =>
          countedRefresh(() =>
            counted(upstream.name, () => method.refresh(upstream, refreshToken, scopes, watch)),
          ),
        readRefresh: (upstream, answer) => method.readRefresh(upstream, answer),
        revoke: (upstream, token, hint) => method.revoke(upstream, token, hint),
      }
    },
    countCodes: (client) => ({
      request: (upstream, asked) => client.request(upstream, asked),
      redeem: (upstream, asked) => counted(upstream.name, () => client.redeem(upstream, asked)),
      host: (upstream) => client.host(upstream),
    }),
    countJournalFailure: () => journalFailures.inc(),
  }
}
