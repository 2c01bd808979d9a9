type Codec = {
  readonly element: number
  readonly array: number
}

/** Object ids of PostgreSQL's built-in element types and their array types; fixed in every version. */
export const arrayTypes: readonly Codec[] = [
  { element: 16, array: 1000 }, // boolean
  { element: 17, array: 1001 }, // bytea
  { element: 20, array: 1016 }, // bigint
  { element: 23, array: 1007 }, // integer
  { element: 25, array: 1009 }, // text
  { element: 701, array: 1022 }, // double precision
  { element: 1184, array: 1185 }, // timestamp with time zone
  { element: 2950, array: 2951 }, // uuid
  { element: 3802, array: 3807 }, // jsonb
]

/** Writes an array as PostgreSQL reads it. A string passes: it is such a text already (drizzle makes its own). */
export function serializeArray(value: unknown, element: (item: unknown) => string): string {
  if (!Array.isArray(value)) return String(value)
  const items = value.map((item: unknown) => {
    if (item === null) return 'NULL'
    if (Array.isArray(item)) return serializeArray(item, element)
    return `"${element(item).replace(/[\\"]/g, '\\$&')}"`
  })
  return `{${items.join(',')}}`
}

/** Reads PostgreSQL's text form of an array, nested ones and NULL elements too. */
export function parseArray(text: string, element: (item: string) => unknown): unknown[] {
  const root: unknown[] = []
  const open: unknown[][] = [root]
  // Bounds such as `[2:3]={…}` may come first.
  let at = text.indexOf('{') + 1
  while (at < text.length) {
    const current = open.at(-1) ?? root
    const character = text[at]
    if (character === '{') {
      const inner: unknown[] = []
      current.push(inner)
      open.push(inner)
      at += 1
    } else if (character === '}') {
      open.pop()
      at += 1
    } else if (character === ',') {
      at += 1
    } else if (character === '"') {
      const end = endOfQuoted(text, at + 1)
      current.push(element(text.slice(at + 1, end).replace(/\\(.)/gs, '$1')))
      at = end + 1
    } else {
      const end = endOfBare(text, at)
      const item = text.slice(at, end)
      current.push(item === 'NULL' ? null : element(item))
      at = end
    }
  }
  return root
}

function endOfQuoted(text: string, from: number): number {
  let at = from
  while (at < text.length && text[at] !== '"') at += text[at] === '\\' ? 2 : 1
  return at
}

function endOfBare(text: string, from: number): number {
  let at = from
  while (at < text.length && text[at] !== ',' && text[at] !== '}') at += 1
  return at
}
