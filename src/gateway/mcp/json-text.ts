import { isObject } from './json-rpc.ts'

/** JSON with the members of objects in order, because a client may write them in another one when it tries again. */
export function canonicalJson(value: unknown): string {
  return written(value, (names) => names.toSorted())
}

/** JSON of what came as JSON. */
export function jsonText(value: unknown): string {
  try {
    return JSON.stringify(value)
  } catch (error) {
    if (error instanceof RangeError) return written(value, (names) => names)
    throw error
  }
}

/** Without calling itself: a caller chooses how deep it is, and what is parsed can be deeper than the stack. */
function written(value: unknown, order: (names: readonly string[]) => readonly string[]): string {
  const texts: string[] = []
  /** What is still to be written, the next one last: a text as it is, or a value. */
  const left: ({ readonly text: string } | { readonly value: unknown })[] = [{ value }]
  for (let next = left.pop(); next !== undefined; next = left.pop()) {
    if ('text' in next) {
      texts.push(next.text)
      continue
    }
    const one = next.value
    const parts: typeof left = []
    if (Array.isArray(one)) {
      for (const [at, item] of one.entries()) {
        parts.push({ text: at === 0 ? '[' : ',' }, { value: item })
      }
      parts.push({ text: one.length === 0 ? '[]' : ']' })
    } else if (isObject(one)) {
      const names = order(Object.keys(one))
      for (const [at, name] of names.entries()) {
        parts.push(
          { text: `${at === 0 ? '{' : ','}${JSON.stringify(name)}:` },
          { value: one[name] },
        )
      }
      parts.push({ text: names.length === 0 ? '{}' : '}' })
    } else parts.push({ text: JSON.stringify(one) ?? 'null' })
    for (let part = parts.pop(); part !== undefined; part = parts.pop()) left.push(part)
  }
  return texts.join('')
}
