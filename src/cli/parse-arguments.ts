import { parseArgs } from 'node:util'
import { distance } from 'fastest-levenshtein'
import { UsageError } from './cli-error.ts'
import type { Command, CommandOption, ParsedOptions } from './command.ts'

/** Reads what follows a command's name. @throws UsageError */
export function parseArguments(
  command: Command,
  argv: readonly string[],
): { readonly options: ParsedOptions; readonly positionals: readonly string[] } {
  const known = command.options ?? {}
  const { tokens } = parseArgs({
    args: [...argv],
    options: Object.fromEntries(
      Object.entries(known).map(([name, { value, short }]) => [
        name,
        { type: value === undefined ? 'boolean' : 'string', ...(short && { short }) },
      ]),
    ),
    strict: false,
    tokens: true,
  })
  const written = new Map<string, (string | undefined)[]>()
  const positionals: string[] = []
  for (const token of tokens) {
    if (token.kind === 'positional') positionals.push(token.value)
    if (token.kind !== 'option') continue
    const option = Object.hasOwn(known, token.name) ? known[token.name] : undefined
    if (option === undefined) throw unknownOption(token.rawName, Object.keys(known))
    checkValue(token.rawName, option, token.value, written.has(token.name))
    written.set(token.name, [...(written.get(token.name) ?? []), token.value])
  }
  checkPositionals(command, positionals)
  const values = (name: string): string[] =>
    (written.get(name) ?? []).filter((value) => value !== undefined)
  return {
    options: {
      has: (name) => written.has(name),
      value: (name) => values(name).at(-1),
      values,
    },
    positionals,
  }
}

function checkValue(
  rawName: string,
  option: CommandOption,
  value: string | undefined,
  isRepeated: boolean,
): void {
  if (option.value === undefined) {
    if (value !== undefined) throw new UsageError(`${rawName} takes no value.`)
    return
  }
  if (value === undefined || value === '') {
    throw new UsageError(`${rawName} needs a value: ${rawName} ${option.value}.`)
  }
  if (isRepeated && option.repeatable !== true) {
    throw new UsageError(`${rawName} may be given once only.`)
  }
}

function checkPositionals({ positionals = [] }: Command, given: readonly string[]): void {
  const missing = positionals.slice(given.length).find((name) => name.startsWith('<'))
  if (missing !== undefined) throw new UsageError(`${missing} is missing.`)
  if (given.length > positionals.length) {
    throw new UsageError(
      positionals.length === 0
        ? 'This command takes no arguments.'
        : `This command takes ${positionals.join(' ')} only.`,
    )
  }
}

function unknownOption(rawName: string, known: readonly string[]): UsageError {
  const near = nearest(rawName.replace(/^-+/, ''), known)
  const shown = /^--?[A-Za-z0-9-]{1,40}$/.test(rawName) ? ` ${rawName}` : ''
  return new UsageError(
    `Unknown option${shown}.${near === undefined ? '' : ` Did you mean --${near}?`}`,
  )
}

/** The known word that a wrong one was probably meant to be; undefined when none is near. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const limit = Math.min(word.length - 1, Math.max(2, Math.floor(word.length / 3)))
  return known
    .map((candidate) => ({ candidate, far: distance(word.toLowerCase(), candidate) }))
    .filter(({ far }) => far <= limit)
    .toSorted((a, b) => a.far - b.far)[0]?.candidate
}
