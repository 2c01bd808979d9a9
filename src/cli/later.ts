import { type Command, exitCodes } from './command.ts'

/** A command that this version knows of and does not have. Takes any arguments, so that nobody gets lost in their details. */
function later(name: string, summary: string): Command {
  return {
    name,
    summary: `${summary} (not yet)`,
    help: 'This command is not available in this version yet.',
    run: ({ output }) => {
      output.err(`onbehalf ${name} is not available in this version yet.\n`)
      return Promise.resolve(exitCodes.refused)
    },
  }
}

export const laterCommands: readonly Command[] = [
  later('login', 'Sign in by browser for these commands'),
]

export function isLater(command: Command): boolean {
  return laterCommands.includes(command)
}
