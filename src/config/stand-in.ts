import { isRequired, nodeAt } from './field-guide.ts'
import { type Path, valueAt } from './problem.ts'

/**
 * Gives the value with everything at the paths replaced by something that passes: left out where it may be, a stand-in where
 * not. Undefined when the schema has none. The checks over several fields then run on the rest.
 */
export function withStandIns(
  root: Record<string, unknown>,
  paths: readonly Path[],
): Record<string, unknown> | undefined {
  const copy = structuredClone(root)
  // From the end, so that leaving out a list's item moves none that is still to come.
  for (const path of paths.toSorted((a, b) => b.length - a.length)) {
    if (!replace(copy, path)) return undefined
  }
  return copy
}

function replace(root: Record<string, unknown>, path: Path): boolean {
  const parent = valueAt(root, path.slice(0, -1))
  const name = path.at(-1)
  // An outer value was replaced before, or is missing itself.
  if (name === undefined || typeof parent !== 'object' || parent === null) return path.length > 1
  const container = parent as Record<string | number, unknown>
  if (!isRequired(path)) {
    Reflect.deleteProperty(container, name)
    return true
  }
  const standIn = nodeAt(path)?.standIn ?? nodeAt(path)?.enum?.[0]
  if (standIn === undefined) return false
  container[name] = structuredClone(standIn)
  return true
}
