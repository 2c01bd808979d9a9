import type { CliEnvironment, CliOutput, CliServices } from './services.ts'

export type CommandContext = {
  readonly services: CliServices
  readonly env: CliEnvironment
  /** Absolute. */
  readonly cwd: string
  readonly output: CliOutput
  readonly options: ParsedOptions
  readonly positionals: readonly string[]
}

/** What was written for each option; options that take a value may have been repeated. */
export type ParsedOptions = {
  has(name: string): boolean
  /** The last one written; undefined when there was none. */
  value(name: string): string | undefined
  values(name: string): readonly string[]
}

export type CommandOption = {
  /** What its value is called in the help; absent for a switch. */
  readonly value?: string
  readonly short?: string
  readonly repeatable?: boolean
  readonly summary: string
}

export type Command = {
  /** One or two words. */
  readonly name: string
  /** Positional arguments as the help writes them: `<NAME>` is required, `[DIR]` is not. */
  readonly positionals?: readonly string[]
  readonly summary: string
  /** What it does and what to do next. */
  readonly help: string
  readonly options?: Readonly<Record<string, CommandOption>>
  /** Gives the exit code. */
  readonly run: (context: CommandContext) => Promise<number>
}

export const exitCodes = { good: 0, failed: 1, refused: 2 } as const
