import { isObject, type McpMessage } from './json-rpc.ts'

/** Deeper than any client writes; a database gives up on what is much deeper. */
const deepest = 100

/**
 * Whether the parameters of an `initialize` can be kept for as long as its session, as they are: PostgreSQL keeps no NUL and no half of
 * a surrogate pair.
 */
export function isKeepable({ params }: McpMessage): boolean {
  return isPlain(params, deepest)
}

function isPlain(value: unknown, levels: number): boolean {
  if (typeof value === 'string') return !/[\0\p{Cs}]/u.test(value)
  if (levels === 0) return false
  if (Array.isArray(value)) return value.every((item) => isPlain(item, levels - 1))
  if (!isObject(value)) return true
  return Object.entries(value).every(
    ([name, member]) => isPlain(name, levels) && isPlain(member, levels - 1),
  )
}
