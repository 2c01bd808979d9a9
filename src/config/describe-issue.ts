import { distance } from 'fastest-levenshtein'
import type * as z from 'zod'
import { nodeAt, type SchemaNode } from './field-guide.ts'
import { type Finding, type Path, valueAt } from './problem.ts'
import { laterModes } from './schema-upstream.ts'

/** Says what the schema found, without the value at fault. `root` is what it was given. */
export function describeIssue(issue: z.core.$ZodIssue, root: unknown): readonly Finding[] {
  const path = issue.path.filter((segment) => typeof segment !== 'symbol')
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => ({
      path: [...path, key],
      message: describeUnknownKey(path, key),
    }))
  }
  if (issue.code === 'invalid_key') {
    return [{ path, message: issue.issues[0]?.message ?? 'is not a name that can stand here' }]
  }
  const value = valueAt(root, path)
  if (value === undefined || value === null) return [describeMissing(path)]
  if (issue.code === 'invalid_type') return [{ path, message: describeType(path, issue, value) }]
  if (issue.code === 'invalid_value') {
    return [{ path, message: describeChoice(path, issue.values.map(String), value) }]
  }
  // Every other check of the schema carries our own sentence.
  return [{ path, message: issue.message }]
}

/** The known name that a wrong one was probably meant to be; undefined when none is near. */
export function nearestName(name: string, known: readonly string[]): string | undefined {
  const limit = Math.min(name.length - 1, Math.max(2, Math.floor(name.length / 3)))
  return known
    .map((candidate) => ({ candidate, far: nameDistance(name, candidate) }))
    .filter(({ far }) => far <= limit)
    .toSorted((a, b) => a.far - b.far)[0]?.candidate
}

function nameDistance(a: string, b: string): number {
  return distance(plain(a), plain(b))
}

function plain(name: string): string {
  return name
    .replaceAll(/(?<=[a-z])(?=[A-Z])/g, '_')
    .toLowerCase()
    .replaceAll('-', '_')
}

/** The setting that an unknown key was probably meant to be: the nearest by its letters, else of those that share a word with it. */
export function nearestSetting(path: Path, key: string): string | undefined {
  const settings = Object.keys(nodeAt(path)?.properties ?? {})
  const words = new Set(plain(key).split('_'))
  const related = settings.filter((name) => name.split('_').some((word) => words.has(word)))
  return nearestName(key, settings) ?? nearestOf(key, related)
}

function nearestOf(name: string, candidates: readonly string[]): string | undefined {
  return candidates.toSorted((a, b) => nameDistance(name, a) - nameDistance(name, b))[0]
}

const stdio =
  'an upstream that is a command (stdio) runs as one process for everybody and takes no credential of a person; give the url of an HTTP server'

function describeUnknownKey(path: Path, key: string): string {
  const isUpstream = path.length === 2 && path[0] === 'upstreams'
  if (isUpstream && ['command', 'args'].includes(key)) return stdio
  const near = nearestSetting(path, key)
  return near === undefined
    ? 'is not a known setting'
    : `is not a known setting; did you mean ${near}?`
}

function describeMissing(path: Path): Finding {
  let node = nodeAt(path)
  let at = path
  // A missing block is named by the one setting in it that must be written.
  while (node?.required?.length === 1 && node.required[0] !== undefined) {
    at = [...at, node.required[0]]
    node = nodeAt(at)
  }
  return { path: at, message: describeRequired(node) }
}

function describeRequired(node: SchemaNode | undefined): string {
  if (node?.enum !== undefined) return `is required: one of ${usable(node.enum).join(', ')}`
  if (node?.description === undefined) return 'is required'
  return `is required: ${node.description.charAt(0).toLowerCase()}${node.description.slice(1).replace(/\.$/, '')}`
}

const typeNames: Readonly<Record<string, string>> = {
  array: 'a list',
  boolean: 'true or false',
  integer: 'a whole number',
  number: 'a number',
  object: 'a mapping of settings',
  record: 'a mapping of names',
  string: 'text',
}

function describeType(path: Path, issue: z.core.$ZodIssueInvalidType, value: unknown): string {
  const expected = typeNames[nodeAt(path)?.type ?? issue.expected] ?? 'another kind of value'
  if (issue.expected === 'string' && typeof value !== 'object') {
    const example = nodeAt(path)?.examples?.[0]
    return example === undefined
      ? `must be ${expected}; put it in quotes`
      : `must be ${expected} such as ${JSON.stringify(example)}`
  }
  return `must be ${expected}`
}

function describeChoice(path: Path, allowed: readonly string[], value: unknown): string {
  if (path.length === 3 && path[0] === 'upstreams' && path[2] === 'kind' && value === 'stdio') {
    return stdio
  }
  const choices = usable(allowed)
  const near = typeof value === 'string' ? nearestChoice(value, choices) : undefined
  return `must be one of ${choices.join(', ')}${near === undefined ? '' : `; did you mean ${near}?`}`
}

/** Nearer than a setting's name has to be: `gitlab` is no slip of the pen for `github`. */
function nearestChoice(value: string, choices: readonly string[]): string | undefined {
  const near = nearestName(value, choices)
  const limit = Math.max(1, Math.floor(value.length / 5))
  return near !== undefined && nameDistance(value, near) <= limit ? near : undefined
}

function usable(choices: readonly string[]): readonly string[] {
  return choices.filter((choice) => !laterModes.some((mode) => mode === choice))
}
