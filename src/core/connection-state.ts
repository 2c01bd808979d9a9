import { type ConnectionReason, type ConnectionStatus, freshnessOf } from './credential.ts'
import type { StoredConnection } from './ports/credential-store.ts'
import { bindingOf, isSameBinding, type Upstream } from './upstream.ts'

/** How a connection stands, as its person is told. */
export type ConnectionState = {
  readonly status: ConnectionStatus
  readonly reason: ConnectionReason | null
}

export const working: ConnectionState = { status: 'connected', reason: null }
export const unavailable: ConnectionState = { status: 'unavailable', reason: null }

/** What the state of a stored connection depends on. */
export type StateRow = Pick<
  StoredConnection,
  'status' | 'reason' | 'binding' | 'renewable' | 'obtainedAt' | 'expiresAt' | 'nextTryAt'
>

/** Of an upstream that people connect. */
export function connectionState(
  row: StateRow | undefined,
  upstream: Upstream,
  now: Date,
): ConnectionState {
  if (row === undefined) return { status: 'not_connected', reason: null }
  if (!isSameBinding(row.binding, bindingOf(upstream.credential))) {
    return { status: 'reconnect_required', reason: 'configuration_changed' }
  }
  if (row.status === 'reconnect_required') {
    return { status: 'reconnect_required', reason: row.reason ?? 'refresh_failed' }
  }
  if (isServable(row, upstream, now)) return working
  if (!row.renewable) return { status: 'expired', reason: 'credential_expired' }
  // It would be renewed at the next call, unless the last try failed.
  return row.nextTryAt === undefined ? working : unavailable
}

/** Whether the stored credential may leave as it is. */
export function isServable(row: StateRow, upstream: Upstream, now: Date): boolean {
  if (row.status !== 'connected') return false
  if (!isSameBinding(row.binding, bindingOf(upstream.credential))) return false
  return freshnessOf({ ...row, renewed: false }, upstream.credential, now) !== 'ended'
}
