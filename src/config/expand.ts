import { nodeAt, type SchemaNode, typesOf } from './field-guide.ts'
import type { Finding, Path } from './problem.ts'

const placeholder =
  /\$\{(?:file:(?<file>[^{}]+)|(?<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?<fallback>[^{}]*))?)\}/g

/** Where the values of placeholders come from. */
export type ExpansionSources = {
  readonly env: Readonly<Record<string, string | undefined>>
  /** Gives a file's text; rejects with a Node system error. */
  readonly readFile: (path: string) => Promise<string>
}

/**
 * Replaces `${NAME}`, `${NAME:-default}` and `${file:/path}` in every string, once: what comes in is not read again. A value
 * that is wholly one of them is read as its field's type. A value that cannot be had is left out and becomes a finding, which
 * names the variable or file, never what is in it. So are empty settings (null) and an empty `:-` default.
 */
export async function expandPlaceholders(
  value: Record<string, unknown>,
  sources: ExpansionSources,
): Promise<{ readonly value: Record<string, unknown>; readonly findings: readonly Finding[] }> {
  const findings: Finding[] = []
  const expanded = await expandMapping(value, [], { sources, findings, ancestors: new Set() })
  return { value: expanded, findings }
}

type Walk = {
  readonly sources: ExpansionSources
  readonly findings: Finding[]
  /** Aliases can make a value contain itself. */
  readonly ancestors: Set<object>
}

async function expandMapping(
  mapping: object,
  path: Path,
  walk: Walk,
): Promise<Record<string, unknown>> {
  const entries: [string, unknown][] = []
  for (const [name, value] of Object.entries(mapping)) {
    const expanded = await expandAny(value, [...path, name], walk)
    if (expanded !== undefined && expanded !== null) entries.push([name, expanded])
  }
  // Unlike an assignment, this makes `__proto__` an ordinary key, which the schema refuses.
  return Object.fromEntries(entries)
}

async function expandAny(value: unknown, path: Path, walk: Walk): Promise<unknown> {
  if (typeof value === 'string') return expandText(value, path, walk)
  if (typeof value !== 'object' || value === null) return value
  if (walk.ancestors.has(value)) {
    walk.findings.push({ path, message: 'contains itself through an alias' })
    return undefined
  }
  walk.ancestors.add(value)
  try {
    if (!Array.isArray(value)) return await expandMapping(value, path, walk)
    const items: unknown[] = []
    for (const [index, item] of value.entries()) {
      items.push(await expandAny(item, [...path, index], walk))
    }
    return items
  } finally {
    walk.ancestors.delete(value)
  }
}

async function expandText(text: string, path: Path, walk: Walk): Promise<unknown> {
  if (!text.includes('${')) return text
  const matches = [...text.matchAll(placeholder)]
  if (text.replaceAll(placeholder, '').includes('${')) {
    walk.findings.push({
      path,
      message:
        'holds a `${` that is not ${NAME}, ${NAME:-default} or ${file:/path}; a value with a real `${` can come from a variable or a file',
    })
    return undefined
  }
  let result = ''
  let end = 0
  let failed = false
  for (const match of matches) {
    const found = await lookUp(match.groups ?? {}, walk.sources)
    if ('message' in found) {
      walk.findings.push({ path, message: found.message })
      failed = true
    } else {
      result += text.slice(end, match.index) + found.text
    }
    end = match.index + match[0].length
  }
  if (failed) return undefined
  result += text.slice(end)

  const [only] = matches
  const isWhole = matches.length === 1 && only !== undefined && only[0] === text
  if (!isWhole) return result
  if (result === '' && only.groups?.['fallback'] === '') return undefined
  return readAs(nodeAt(path), result)
}

async function lookUp(
  groups: Readonly<Record<string, string | undefined>>,
  { env, readFile }: ExpansionSources,
): Promise<{ readonly text: string } | { readonly message: string }> {
  const { file, name = '', fallback } = groups
  if (file !== undefined) {
    try {
      const text = await readFile(file)
      return { text: text.replace(/\r?\n$/, '') }
    } catch (error) {
      return { message: `the file ${printable(file)} cannot be read: ${describeFileFault(error)}` }
    }
  }
  const value = Object.hasOwn(env, name) ? env[name] : undefined
  // As in a shell, `:-` also replaces an empty value.
  if (fallback !== undefined) {
    return { text: value === undefined || value === '' ? fallback : value }
  }
  if (value === undefined) return { message: `the environment variable ${name} is not set` }
  return { text: value }
}

function printable(path: string): string {
  return path.replaceAll(/[^\x21-\x7e]/g, '?')
}

/** Says in our own words why a file cannot be read. */
export function describeFileFault(error: unknown): string {
  if (isMissingFile(error)) return 'there is no such file'
  switch (codeOf(error)) {
    case 'EACCES':
    case 'EPERM':
      return 'permission denied'
    case 'EISDIR':
      return 'it is a directory'
    default:
      return 'reading it failed'
  }
}

export function isMissingFile(error: unknown): boolean {
  const code = codeOf(error)
  return code === 'ENOENT' || code === 'ENOTDIR'
}

function codeOf(error: unknown): unknown {
  return typeof error === 'object' && error !== null && 'code' in error ? error.code : undefined
}

/** What does not fit its field's type stays text, which the schema then refuses. */
function readAs(node: SchemaNode | undefined, text: string): unknown {
  const types = node === undefined ? new Set<string>() : typesOf(node)
  const block = readBlock(text)
  if (block !== undefined && types.has(Array.isArray(block) ? 'array' : 'object')) return block
  if (types.size === 0 || types.has('string')) return text
  if (types.has('integer') || types.has('number')) {
    return /^-?\d+(\.\d+)?$/.test(text) ? Number(text) : text
  }
  if (types.has('boolean')) return text === 'true' ? true : text === 'false' ? false : text
  if (types.has('array')) {
    return text
      .split(',')
      .map((item) => item.trim())
      .filter((item) => item !== '')
  }
  return text
}

/** A mapping or a list, written as JSON. */
function readBlock(text: string): object | undefined {
  if (!/^\s*[[{]/.test(text)) return undefined
  try {
    return JSON.parse(text) as object
  } catch {
    return undefined
  }
}
