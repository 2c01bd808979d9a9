import { setTimeout as sleep } from 'node:timers/promises'
import type { ActivityDestination } from '../core/activity-destination.ts'
import type { ActivityArrivals } from '../core/ports/activity-arrivals.ts'
import type { ActivitySigner } from '../core/ports/activity-signer.ts'
import type { Clock } from '../core/ports/clock.ts'
import type { HttpClient } from '../core/ports/http-client.ts'
import type { TaskLeases } from '../core/ports/task-leases.ts'
import { buildRequest, destinationId } from './destination-request.ts'

export type DestinationLog = {
  info(entry: { readonly event: 'activity_destination_recovered'; readonly at: string }): void
  warn(
    entry: /** Said once an outage. `status` is null where no answer came. */
      | {
          readonly event: 'activity_destination_failing'
          readonly at: string
          readonly status: number | null
        }
      /** OTLP took the delivery but not all of its records. */
      | {
          readonly event: 'activity_destination_rejected_records'
          readonly at: string
          readonly records: number
        },
  ): void
}

export type DestinationPorts = {
  readonly arrivals: ActivityArrivals
  readonly leases: TaskLeases
  readonly signer: Pick<ActivitySigner, 'sign'>
  readonly http: HttpClient
  readonly clock: Clock
  readonly log: DestinationLog
  readonly version: string
  /** How often it is looked for new records. */
  readonly pollMs?: number
  /** The first pause after a failure; it doubles up to five minutes. */
  readonly retryMs?: number
}

const recordsPerDelivery = 500
const deadlineMs = 15_000
const answerBytes = 1024 * 1024
const leaseMs = 60_000
const longestPauseMs = 5 * 60_000
/** Well within the lease, so that it is kept while a destination is away. */
const longestSleepMs = 15_000

/**
 * Sends every record to the destinations too, at least once and in the order of arrival, one process at a time for each. It
 * reads what is in the database and remembers there how far it came, so an outage of theirs delays nothing and loses nothing.
 */
export function startDestinations(
  destinations: readonly ActivityDestination[],
  ports: DestinationPorts,
): { readonly stop: () => Promise<void> } {
  const abort = new AbortController()
  const running = destinations.map((destination) => keepSending(destination, ports, abort.signal))
  return {
    async stop() {
      abort.abort()
      await Promise.all(running)
    },
  }
}

/** Never rejects. */
async function keepSending(
  destination: ActivityDestination,
  ports: DestinationPorts,
  signal: AbortSignal,
): Promise<void> {
  const { leases, pollMs = 1000 } = ports
  const id = destinationId(destination)
  const task = `activity_destination ${id}`
  const attempts = createAttempts(destination.setting, ports)

  /** Whether there may be more to send at once. */
  async function sendSome(): Promise<boolean> {
    if (!(await leases.hold(task, leaseMs))) return false
    const after = await ports.arrivals.register(id)
    if (attempts.pauseMs() > 0) return false
    const outcome = await deliverNext(destination, ports, after, attempts.limit())
    if (outcome === 'sent') attempts.succeeded()
    else if (outcome !== 'nothing') attempts.failed(outcome.status)
    return outcome === 'sent'
  }

  while (!signal.aborted) {
    // Where the database is away, others say so. What is not marked as delivered is sent again.
    const isMore = await sendSome().catch(() => false)
    const pause = Math.min(attempts.pauseMs(), longestSleepMs)
    const wait = isMore ? 0 : Math.max(pollMs, pause)
    if (wait > 0) await sleep(wait, undefined, { signal }).catch(() => {})
  }
  await leases.release(task).catch(() => {})
}

/** How long to wait after failures, and how much to send. */
function createAttempts(at: string, { log, retryMs = 1000 }: DestinationPorts) {
  let failures = 0
  let limit = recordsPerDelivery
  let nextAt = 0
  return {
    limit: () => limit,
    pauseMs: () => Math.max(0, nextAt - performance.now()),
    succeeded(): void {
      limit = Math.min(recordsPerDelivery, limit * 2)
      if (failures > 0) log.info({ event: 'activity_destination_recovered', at })
      failures = 0
    },
    failed(status: number | null): void {
      if (failures === 0) log.warn({ event: 'activity_destination_failing', at, status })
      // Too large for it: half as much the next time.
      if (status === 413) limit = Math.max(1, limit >> 1)
      const pause = Math.min(longestPauseMs, retryMs * 2 ** Math.min(failures, 20))
      failures += 1
      // Jitter: many brokers that lost one destination do not come back together.
      nextAt = performance.now() + pause * (0.5 + Math.random() / 2)
    },
  }
}

async function deliverNext(
  destination: ActivityDestination,
  ports: DestinationPorts,
  after: number,
  limit: number,
): Promise<'sent' | 'nothing' | { readonly status: number | null }> {
  const { arrivals, clock, http, log } = ports
  const { setting, allowPrivateNetwork } = destination
  const found = await arrivals.next(after, limit)
  if (found === undefined) return 'nothing'
  const { upTo } = found
  for (let at = 0; at < found.rows.length; at += limit) {
    const rows = found.rows.slice(at, at + limit)
    const request = await buildRequest({ ...ports, destination, rows, now: clock.now() })
    const answer = await http
      .send({
        ...request,
        method: 'POST',
        deadlineMs,
        maxBytes: answerBytes,
        destination: {
          allowPrivateNetwork,
          configured: true,
          setting: `${setting}.allow_private_network`,
        },
      })
      .catch(() => undefined)
    if (answer === undefined) return { status: null }
    if (answer.status < 200 || answer.status > 299) return { status: answer.status }
    const rejected = destination.kind === 'otlp' ? rejectedIn(answer.body) : 0
    if (rejected > 0) {
      // They must not be sent again (OTLP, partial success).
      log.warn({ event: 'activity_destination_rejected_records', at: setting, records: rejected })
    }
  }
  await arrivals.delivered(destinationId(destination), upTo)
  return 'sent'
}

function rejectedIn(body: string): number {
  try {
    const value = JSON.parse(body) as { partialSuccess?: { rejectedLogRecords?: unknown } } | null
    const rejected = Number(value?.partialSuccess?.rejectedLogRecords ?? 0)
    return Number.isSafeInteger(rejected) && rejected > 0 ? rejected : 0
  } catch {
    return 0
  }
}
