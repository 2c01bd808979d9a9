import { rootNode } from './field-guide.ts'

const placeholderPattern = String.raw`\$\{[^{}]+\}`

/**
 * The JSON Schema (draft 2020-12) of the file as it is written, for editors: wherever text, a number, a switch or a list
 * stands, a placeholder such as `${NAME}` may stand too.
 */
export function configJsonSchema(): Record<string, unknown> {
  const { $schema, ...schema } = forEditors(rootNode) as Record<string, unknown>
  return { $schema, title: 'onbehalf configuration', ...schema }
}

const annotations = new Set(['description', 'default'])

function forEditors(node: unknown): unknown {
  if (Array.isArray(node)) return node.map(forEditors)
  if (typeof node !== 'object' || node === null) return node
  const entries = Object.entries(withoutStandIn(node)).map(
    ([keyword, value]): [string, unknown] => [keyword, childrenForEditors(keyword, value)],
  )
  const schema = Object.fromEntries(entries)
  return needsAlternative(schema) ? withPlaceholder(entries) : schema
}

function childrenForEditors(keyword: string, value: unknown): unknown {
  switch (keyword) {
    case 'properties':
      return Object.fromEntries(
        Object.entries(value as object).map(([name, child]) => [name, forEditors(child)]),
      )
    case 'propertyNames':
      return withoutStandIn(value as object)
    case 'items':
    case 'anyOf':
    case 'additionalProperties':
      return forEditors(value)
    default:
      return value
  }
}

function withoutStandIn(schema: object): object {
  return Object.fromEntries(Object.entries(schema).filter(([keyword]) => keyword !== 'standIn'))
}

/** Whether a placeholder would not pass as the value itself. */
function needsAlternative(schema: Readonly<Record<string, unknown>>): boolean {
  const { type, minLength = 0 } = schema
  if (type === 'string') return 'pattern' in schema || 'enum' in schema || Number(minLength) > 1
  return type === 'number' || type === 'integer' || type === 'boolean' || type === 'array'
}

function withPlaceholder(entries: readonly [string, unknown][]): Record<string, unknown> {
  const isAnnotation = ([keyword]: [string, unknown]): boolean => annotations.has(keyword)
  return {
    ...Object.fromEntries(entries.filter(isAnnotation)),
    anyOf: [
      Object.fromEntries(entries.filter((entry) => !isAnnotation(entry))),
      { type: 'string', pattern: placeholderPattern },
    ],
  }
}
