import {
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  parseDocument as parseYaml,
  type YAMLError,
} from 'yaml'
import { nestsTooDeeply } from './nesting.ts'
import type { Finding, Path } from './problem.ts'

const maxCharacters = 1024 * 1024
const maxAliases = 100

/**
 * Parses YAML 1.2, of which JSON is a part, into plain values. Merge keys (`<<`) and aliases work, within bounds. The
 * parser's own messages quote the text, which may be a secret, so only our sentences and positions come out.
 */
export function parseDocument(
  text: string,
): { readonly value: Record<string, unknown> } | { readonly findings: readonly Finding[] } {
  if (text.length > maxCharacters) return wholeFile('is larger than 1 MiB')
  try {
    if (nestsTooDeeply(text)) return wholeFile('is nested too deeply')
    return parse(text.replace(/^\uFEFF/, ''))
  } catch (error) {
    if (error instanceof ReferenceError) {
      return wholeFile('repeats its aliases (`*name`) too often; write the values out')
    }
    return wholeFile('cannot be read as YAML or JSON')
  }
}

function parse(text: string): ReturnType<typeof parseDocument> {
  const lines = new LineCounter()
  const document = parseYaml(text, {
    lineCounter: lines,
    merge: true,
    prettyErrors: false,
    stringKeys: true,
    // Done below, where the path is known.
    uniqueKeys: false,
    logLevel: 'error',
  })
  const faults = [...document.errors, ...document.warnings]
  if (faults.length > 0) {
    return { findings: faults.map((fault) => ({ path: [], message: describe(fault, lines) })) }
  }
  const badKeys = findBadKeys(document.contents, [], lines)
  if (badKeys.length > 0) return { findings: badKeys }

  const value: unknown = document.toJS({ maxAliasCount: maxAliases })
  if (value === null || value === undefined) {
    return wholeFile('is empty; `onbehalf init` writes a file to start from')
  }
  if (typeof value !== 'object' || Array.isArray(value)) {
    return wholeFile('must be a mapping of settings, such as `public_url: https://…`')
  }
  return { value: value as Record<string, unknown> }
}

function wholeFile(message: string): { readonly findings: readonly Finding[] } {
  return { findings: [{ path: [], message }] }
}

function findBadKeys(node: unknown, path: Path, lines: LineCounter): Finding[] {
  if (isSeq(node)) {
    return node.items.flatMap((item, index) => findBadKeys(item, [...path, index], lines))
  }
  if (!isMap(node)) return []
  const findings: Finding[] = []
  const seen = new Set<string>()
  for (const { key, value } of node.items) {
    if (!isScalar(key)) continue
    const name = String(key.value)
    if (seen.has(name) && name !== '<<') {
      const at = key.range === null || key.range === undefined ? '' : place(key.range[0], lines)
      findings.push({ path: [...path, name], message: `is written twice${at}` })
    }
    seen.add(name)
    // Libraries skip this name without a word.
    if (name === '__proto__')
      findings.push({ path: [...path, name], message: 'is not a known setting' })
    findings.push(...findBadKeys(value, [...path, name], lines))
  }
  return findings
}

function place(offset: number, lines: LineCounter): string {
  const { line, col } = lines.linePos(offset)
  return ` (line ${line}, column ${col})`
}

function describe(fault: YAMLError, lines: LineCounter): string {
  return `${sentences[fault.code]}${place(fault.pos[0], lines)}`
}

const indentation = 'the indentation does not fit, or a bracket is not closed'
const unreadable =
  'this cannot be read as YAML or JSON; a value with special characters needs quotes'

const sentences: Readonly<Record<YAMLError['code'], string>> = {
  ALIAS_PROPS: 'an alias (`*name`) cannot have a tag or an anchor',
  BAD_ALIAS: 'an alias (`*name`) has no anchor; a value that begins with `*` needs quotes',
  BAD_COLLECTION_TYPE: unreadable,
  BAD_DIRECTIVE: 'a line that begins with `%` is not supported; such a value needs quotes',
  BAD_DQ_ESCAPE: 'a backslash in double quotes begins an unknown escape; use single quotes',
  BAD_INDENT: indentation,
  BAD_PROP_ORDER: unreadable,
  BAD_SCALAR_START: 'a value begins with a reserved character and needs quotes',
  BLOCK_AS_IMPLICIT_KEY:
    'a value holds a colon and a space, or a mapping is out of place; quote it',
  BLOCK_IN_FLOW: 'a block cannot stand inside `{ }` or `[ ]`',
  DUPLICATE_KEY: 'a key is written twice',
  IMPOSSIBLE: unreadable,
  KEY_OVER_1024_CHARS: 'a key is longer than 1,024 characters',
  MISSING_CHAR: 'a bracket, a quote, a comma or a colon is missing',
  MULTILINE_IMPLICIT_KEY:
    'a key goes over more than one line; perhaps a colon or a quote is missing',
  MULTIPLE_ANCHORS: 'a value has more than one anchor',
  MULTIPLE_DOCS: 'the file holds more than one document (`---`)',
  MULTIPLE_TAGS: 'a value has more than one tag',
  NON_STRING_KEY: 'a key is not text',
  RESOURCE_EXHAUSTION: 'the file is nested too deeply',
  TAB_AS_INDENT: 'a tab is used for indentation; use spaces',
  TAG_RESOLVE_FAILED: 'tags (`!name`) are not supported; a value that begins with `!` needs quotes',
  UNEXPECTED_TOKEN: unreadable,
}
