import { isObject } from './json-rpc.ts'

/** Deeper than anybody writes; a database gives up on what is much deeper. */
const deepest = 100

/** Whether JSON of others can be kept in a row as it is: PostgreSQL takes no NUL and no half of a surrogate pair. */
export function isKeepable(value: unknown): boolean {
  return isPlain(value, deepest)
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
