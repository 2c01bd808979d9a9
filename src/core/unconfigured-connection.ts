import type { ConnectionView } from './ports/broker-services.ts'
import type { StoredConnection } from './ports/credential-store.ts'

/** What is stored of an upstream that is configured no more: nothing can be used, and it can be removed. */
export function unconfiguredConnection(
  row: StoredConnection,
  lastUsedAt: Date | undefined,
): ConnectionView {
  return {
    upstream: row.upstream,
    displayName: row.upstream,
    mode: null,
    status: 'reconnect_required',
    reason: 'configuration_changed',
    scopes: row.scopes,
    audience: row.audience ?? null,
    method: row.method,
    account: row.account ?? null,
    expiresAt: row.expiresAt ?? null,
    connectedAt: row.connectedAt,
    lastUsedAt: lastUsedAt ?? null,
    connectable: false,
  }
}
