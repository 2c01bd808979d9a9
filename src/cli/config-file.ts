import { resolve } from 'node:path'
import { type CommandContext, type CommandOption, exitCodes } from './command.ts'
import type { Configuration, ConfigurationProblem } from './services.ts'
import { printable } from './terminal-text.ts'

export const configOption: Readonly<Record<string, CommandOption>> = {
  config: {
    value: 'FILE',
    summary: 'The configuration file. Default: $ONBEHALF_CONFIG, else onbehalf.yaml.',
  },
}

/** The file as it was named, for messages. */
function configFileName({ options, env }: CommandContext): string {
  const fromEnvironment = env['ONBEHALF_CONFIG']
  return (
    options.value('config') ??
    (fromEnvironment === undefined || fromEnvironment === '' ? 'onbehalf.yaml' : fromEnvironment)
  )
}

/** Runs a command that needs a good configuration; with any other it says every problem and gives exit code 2. */
export async function withConfiguration(
  context: CommandContext,
  run: (configuration: Configuration, file: string) => Promise<number>,
): Promise<number> {
  const file = configFileName(context)
  const loaded = await context.services.configure({
    path: resolve(context.cwd, file),
    env: context.env,
  })
  if ('configuration' in loaded) return run(loaded.configuration, file)
  const { problems } = loaded
  const count = problems.length === 1 ? '1 problem' : `${problems.length} problems`
  context.output.err(`${printable(file)}: ${count}\n`)
  for (const problem of problems) context.output.err(`  ${describe(problem)}\n`)
  if (problems.some(({ message }) => namesUnsetVariable.test(message))) {
    context.output.err('Are they in a file? Load it first: set -a; . ./.env; set +a\n')
  }
  return exitCodes.refused
}

const namesUnsetVariable = /^the environment variable .+ is not set$/

export function describe({ path, message }: ConfigurationProblem): string {
  return printable(path === '' ? message : `${path}: ${message}`)
}
