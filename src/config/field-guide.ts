import * as z from 'zod'
import type { Path } from './problem.ts'
import { configFileSchema } from './schema.ts'

/** The part of JSON Schema that our own schema comes out as. */
export type SchemaNode = {
  readonly type?: string
  readonly description?: string
  readonly default?: unknown
  readonly enum?: readonly string[]
  /** Values as they are written, where text alone says too little. */
  readonly examples?: readonly string[]
  readonly anyOf?: readonly SchemaNode[]
  readonly properties?: Readonly<Record<string, SchemaNode>>
  readonly required?: readonly string[]
  readonly additionalProperties?: SchemaNode | boolean
  readonly items?: SchemaNode
  /** A value that passes; see `schema-values.ts`. */
  readonly standIn?: unknown
}

/** The configuration schema as data: what a field's type is, which names are known. */
export const rootNode = z.toJSONSchema(configFileSchema, { io: 'input' }) as SchemaNode

/** The schema of the field at a path; undefined where the schema knows none. */
export function nodeAt(path: Path): SchemaNode | undefined {
  let node: SchemaNode | undefined = rootNode
  for (const segment of path) {
    if (node === undefined) return undefined
    node = typeof segment === 'number' ? listOf(node)?.items : propertyOf(node, segment)
  }
  return node
}

function propertyOf(node: SchemaNode, name: string): SchemaNode | undefined {
  const { properties, additionalProperties } = node
  if (properties !== undefined) {
    return Object.hasOwn(properties, name) ? properties[name] : undefined
  }
  return typeof additionalProperties === 'object' ? additionalProperties : undefined
}

function listOf(node: SchemaNode): SchemaNode | undefined {
  return [node, ...(node.anyOf ?? [])].find(({ type }) => type === 'array')
}

/** The types that a field may be written as. */
export function typesOf(node: SchemaNode): ReadonlySet<string> {
  return new Set([node, ...(node.anyOf ?? [])].flatMap(({ type }) => type ?? []))
}

export function isRequired(path: Path): boolean {
  const name = path.at(-1)
  if (typeof name === 'number') return true
  if (name === undefined) return false
  return nodeAt(path.slice(0, -1))?.required?.includes(name) ?? false
}
