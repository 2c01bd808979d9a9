/** The revision in which every request carries its own version and there are no sessions. */
export const modernRevision = '2026-07-28'

/** The revisions that begin with `initialize`, newest first. */
export const sessionRevisions: readonly string[] = ['2025-11-25', '2025-06-18', '2025-03-26']

/** What `initialize` is answered in when it asks for none of these. */
export const newestSessionRevision = '2025-11-25'

/** `modern`: the revision without sessions. `session`: those before it. */
export type Era = 'modern' | 'session'

/** The only revision with batches. */
export const batchRevision = '2025-03-26'

/** Where a request of 2026-07-28 says what it is. */
export const metaKey = {
  protocolVersion: 'io.modelcontextprotocol/protocolVersion',
  clientCapabilities: 'io.modelcontextprotocol/clientCapabilities',
  serverInfo: 'io.modelcontextprotocol/serverInfo',
  subscriptionId: 'io.modelcontextprotocol/subscriptionId',
} as const
