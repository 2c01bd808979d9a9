import { createHmac, hash } from 'node:crypto'
import type { ActivityDestination } from '../core/activity-destination.ts'
import type { ActivityRow } from '../core/ports/activity-proof.ts'
import type { ActivitySigner } from '../core/ports/activity-signer.ts'

/** What is sent for a list of records. */
export type DestinationRequest = {
  readonly url: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

/** Names a destination in the database. Its URL may hold what is not for everybody. */
export function destinationId({ kind, url }: ActivityDestination): string {
  return hash('sha256', `${kind} ${url}`, 'hex')
}

/**
 * Builds one delivery, signed as Standard Webhooks has it: over `webhook-id`, `webhook-timestamp` and the body with a dot in
 * between, as `v1` (HMAC-SHA-256 under the secret) and `v1a` (Ed25519, with the key of the checkpoints). The id stays the same
 * when the same records are sent again.
 */
export async function buildRequest(options: {
  readonly destination: ActivityDestination
  readonly rows: readonly ActivityRow[]
  readonly signer: Pick<ActivitySigner, 'sign'>
  readonly now: Date
  readonly version: string
}): Promise<DestinationRequest> {
  const { destination, rows, signer, now, version } = options
  const { kind, url, secret } = destination
  const body = JSON.stringify(kind === 'webhook' ? webhookBody(rows) : otlpBody(rows, now, version))
  const ends = [rows.at(0)?.id, rows.at(-1)?.id, rows.length]
  const id = `msg_${hash('sha256', `${destinationId(destination)} ${ends.join(' ')}`, 'hex').slice(0, 32)}`
  const timestamp = String(Math.floor(now.getTime() / 1000))
  const signed = `${id}.${timestamp}.${body}`
  const { signature } = await signer.sign(signed)
  const asymmetric = `v1a,${Buffer.from(signature, 'base64url').toString('base64')}`
  const symmetric = secret && `v1,${hmac(secret.reveal(), signed)}`
  return {
    url: kind === 'otlp' ? logsUrl(url) : url,
    headers: {
      'content-type': 'application/json',
      'webhook-id': id,
      'webhook-timestamp': timestamp,
      'webhook-signature': symmetric === undefined ? asymmetric : `${symmetric} ${asymmetric}`,
      // What collectors ask for.
      ...(kind === 'otlp' && secret !== undefined
        ? { authorization: `Bearer ${secret.reveal()}` }
        : {}),
    },
    body,
  }
}

/** A secret with the prefix of the standard is base64; any other is taken as it is written. */
function hmac(secret: string, text: string): string {
  const prefix = 'whsec_'
  const key = secret.startsWith(prefix)
    ? Buffer.from(secret.slice(prefix.length), 'base64')
    : Buffer.from(secret, 'utf8')
  return createHmac('sha256', key).update(text, 'utf8').digest('base64')
}

/** As for every OTLP exporter: a base URL gets the path of logs, one that has it is left alone. */
function logsUrl(written: string): string {
  const url = new URL(written)
  if (!url.pathname.endsWith('/v1/logs')) {
    url.pathname = `${url.pathname.replace(/\/$/, '')}/v1/logs`
  }
  return url.href
}

function webhookBody(rows: readonly ActivityRow[]) {
  return {
    type: 'activity.recorded',
    timestamp: milliseconds(rows.at(-1)?.occurredAt ?? ''),
    data: { records: rows.map(recordOf) },
  }
}

/** A record as the REST API has it, and its place in the chain. */
function recordOf(row: ActivityRow) {
  return {
    id: row.id,
    occurred_at: milliseconds(row.occurredAt),
    request_id: row.requestId,
    type: row.type,
    user_id: row.userId,
    issuer: row.issuer,
    actor: { kind: row.actorKind, id: row.actorId },
    upstream: row.upstream,
    action: row.action,
    method: row.method,
    outcome: row.outcome,
    reason: row.reason,
    duration_ms: row.durationMs,
    details: row.details,
    writer: row.writer,
    seq: row.seq,
    hash: row.hash?.toString('hex') ?? null,
  }
}

/** OTLP over HTTP in JSON (opentelemetry-proto 1.0, `ExportLogsServiceRequest`): 64-bit numbers are texts. */
function otlpBody(rows: readonly ActivityRow[], now: Date, version: string) {
  const observed = nanoseconds(now.toISOString())
  return {
    resourceLogs: [
      {
        resource: {
          attributes: [
            attribute('service.name', 'onbehalf'),
            attribute('service.version', version),
          ],
        },
        scopeLogs: [
          {
            scope: { name: 'onbehalf.activity' },
            logRecords: rows.map((row) => ({
              timeUnixNano: nanoseconds(row.occurredAt),
              observedTimeUnixNano: observed,
              // INFO and WARN of the data model.
              severityNumber: row.outcome === 'success' ? 9 : 13,
              severityText: row.outcome === 'success' ? 'INFO' : 'WARN',
              eventName: `onbehalf.${row.type}`,
              body: { stringValue: `${row.action} ${row.outcome}` },
              attributes: attributesOf(recordOf(row)),
            })),
          },
        ],
      },
    ],
  }
}

function attributesOf({ actor, details, ...fields }: ReturnType<typeof recordOf>) {
  const all = {
    ...fields,
    actor_kind: actor.kind,
    actor_id: actor.id,
    details: JSON.stringify(details),
  }
  return Object.entries(all).flatMap(([name, value]) =>
    value === null ? [] : [attribute(`onbehalf.${name}`, value)],
  )
}

function attribute(key: string, value: string | number) {
  if (typeof value === 'string') return { key, value: { stringValue: value } }
  return {
    key,
    value: Number.isInteger(value) ? { intValue: String(value) } : { doubleValue: value },
  }
}

function milliseconds(instant: string): string {
  return instant.replace(/000Z$/, 'Z')
}

function nanoseconds(instant: string): string {
  const micros = /\.(\d{3})(\d{3})?Z$/.exec(instant)
  const ms = BigInt(Date.parse(instant.replace(/(\.\d{3})\d*Z$/, '$1Z')) || 0)
  return String(ms * 1_000_000n + BigInt(micros?.[2] ?? '0') * 1000n)
}
