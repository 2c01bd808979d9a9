import type { Upstream } from '../../core/upstream.ts'

/** The one address of an MCP server: what is configured, with its query. */
export function mcpTarget(upstream: Upstream): string {
  const { pathname, search } = new URL(upstream.url)
  return `${pathname}${search}`
}
