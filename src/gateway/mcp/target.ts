import type { Upstream } from '../../core/upstream.ts'

const targets = new WeakMap<Upstream, string>()

/** The one address of an MCP server: what is configured, with its query. */
export function mcpTarget(upstream: Upstream): string {
  let target = targets.get(upstream)
  if (target === undefined) {
    const { pathname, search } = new URL(upstream.url)
    target = `${pathname}${search}`
    targets.set(upstream, target)
  }
  return target
}

/** Of questions that the gateway asks itself. */
export const ownHeaders: readonly string[] = [
  'Content-Type',
  'application/json',
  'Accept',
  'application/json, text/event-stream',
]
