import { UsageError } from './cli-error.ts'
import type { CommandContext, CommandOption } from './command.ts'
import { nearest } from './parse-arguments.ts'

export function outputOption(formats: readonly string[]): Readonly<Record<string, CommandOption>> {
  return {
    output: {
      value: formats.join('|'),
      short: 'o',
      summary: `How to print it. Default: ${formats[0] ?? ''}.`,
    },
  }
}

/** The format that was asked for; the first one by default. @throws UsageError */
export function readFormat<Format extends string>(
  { options }: Pick<CommandContext, 'options'>,
  formats: readonly [Format, ...Format[]],
): Format {
  const value = options.value('output')
  return value === undefined ? formats[0] : readChoice('-o', value, formats)
}

/** One value of a closed set. @throws UsageError */
export function readChoice<Choice extends string>(
  option: string,
  value: string,
  choices: readonly Choice[],
): Choice {
  const choice = choices.find((candidate) => candidate === value)
  if (choice !== undefined) return choice
  const near = nearest(value, choices)
  throw new UsageError(
    `${option} must be one of ${choices.join(', ')}.${near === undefined ? '' : ` Did you mean ${near}?`}`,
  )
}
