import { isBrokerError } from '../core/errors.ts'
import { isOperatorError } from '../core/operator-error.ts'
import { activityList, activityShow } from './activity.ts'
import { activityExport } from './activity-export.ts'
import { activitySummary } from './activity-summary.ts'
import { activityTail } from './activity-tail.ts'
import { activityVerify } from './activity-verify.ts'
import { CommandFailure, UsageError } from './cli-error.ts'
import { type Command, type CommandContext, exitCodes } from './command.ts'
import { configCheck, configSchema } from './config.ts'
import { connectionsConnect, connectionsDisconnect, connectionsList } from './connections.ts'
import { demo } from './demo.ts'
import { commandHelp, groupHelp, programHelp, usage } from './help.ts'
import { init } from './init.ts'
import { keysGenerate, keysRewrap, keysStatus } from './keys.ts'
import { login } from './login.ts'
import { migrate } from './migrate.ts'
import { nearest, parseArguments } from './parse-arguments.ts'
import { serve } from './serve.ts'
import { smoke } from './smoke.ts'
import { upstreamProbe } from './upstream-probe.ts'
import type { CliEnvironment, CliOutput, CliServices } from './services.ts'

const commands: readonly Command[] = [
  demo,
  init,
  configCheck,
  configSchema,
  migrate,
  serve,
  keysGenerate,
  keysStatus,
  keysRewrap,
  login,
  connectionsList,
  connectionsConnect,
  connectionsDisconnect,
  activityList,
  activityShow,
  activityTail,
  activitySummary,
  activityExport,
  activityVerify,
  upstreamProbe,
  smoke,
]

export type CliCall = {
  /** What follows the program's name. */
  readonly argv: readonly string[]
  readonly env: CliEnvironment
  /** Absolute. */
  readonly cwd: string
  readonly stdout: { readonly columns?: number; write(text: string): unknown }
  readonly stderr: { readonly isTTY?: boolean; write(text: string): unknown }
  readonly services: CliServices
}

/** Runs one command and gives the exit code: 0 good, 1 the check or call failed, 2 wrong usage or a refused configuration. Never rejects. */
export async function runCli(call: CliCall): Promise<number> {
  const output: CliOutput = {
    out: (text) => void call.stdout.write(text),
    err: (text) => void call.stderr.write(text),
    isWatched: call.stderr.isTTY === true,
    columns: call.stdout.columns,
  }
  const { argv } = call
  const [first] = argv
  if (first === undefined) {
    output.err(programHelp(commands))
    return exitCodes.refused
  }
  if (first === '--version' || first === '-v') {
    output.out(`${call.services.version}\n`)
    return exitCodes.good
  }
  if (isHelp(first) || first === 'help') return help(argv.slice(1), output)

  const found = findCommand(argv)
  if (found === undefined) return argv.some(isHelp) ? help(argv, output) : unknown(argv, output)
  if (found.rest.some(isHelp)) {
    output.out(commandHelp(found.command))
    return exitCodes.good
  }
  return run(found.command, found.rest, call, output)
}

function isHelp(word: string): boolean {
  return word === '--help' || word === '-h'
}

function findCommand(
  argv: readonly string[],
): { readonly command: Command; readonly rest: readonly string[] } | undefined {
  for (const words of [2, 1]) {
    const name = argv.slice(0, words).join(' ')
    const command = commands.find((candidate) => candidate.name === name)
    if (command !== undefined) return { command, rest: argv.slice(words) }
  }
  return undefined
}

async function run(
  command: Command,
  rest: readonly string[],
  call: CliCall,
  output: CliOutput,
): Promise<number> {
  const { services, env, cwd } = call
  try {
    const parsed = parseArguments(command, rest)
    const context: CommandContext = { services, env, cwd, output, ...parsed }
    return await command.run(context)
  } catch (error) {
    return report(error, command, output)
  }
}

/** Refusals of the configuration that only the database or its driver can judge. */
const refusedConfiguration = ['encryption_keys_refused', 'database_url_invalid']

function report(error: unknown, command: Command, output: CliOutput): number {
  if (error instanceof UsageError) {
    output.err(`${error.message}\nUsage: ${usage(command)}\n`)
    output.err(`\`onbehalf ${command.name} --help\` says more.\n`)
    return exitCodes.refused
  }
  if (error instanceof CommandFailure) {
    output.err(`${error.message}\n`)
    return exitCodes.failed
  }
  if (isOperatorError(error)) {
    output.err(`${error.message}\n`)
    return refusedConfiguration.includes(error.code) ? exitCodes.refused : exitCodes.failed
  }
  if (isBrokerError(error, 'storage_unavailable')) {
    output.err(`${describeStorageFault(error.cause)}\n`)
    return exitCodes.failed
  }
  output.err(`onbehalf ${command.name} failed unexpectedly: ${describeUnexpected(error)}\n`)
  return exitCodes.failed
}

/** PostgreSQL's classes of refusals that are about a statement, and not about getting in or staying there. */
const refusedStatement = /^(?!08|53|57|58)[0-9A-Z]{5}$/

function describeStorageFault(cause: unknown): string {
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : ''
  if (code === '42501') {
    return 'The database does not let the user of database.url do that (SQLSTATE 42501). It must own the tables, and `onbehalf migrate` must be able to create them.'
  }
  return refusedStatement.test(code)
    ? `The database answers, and refuses what it is asked (SQLSTATE ${code}).`
    : 'The database cannot be reached. Is it running, and is database.url right?'
}

/** The kind of error and where it came from; messages of libraries may hold addresses, passwords or tokens. */
function describeUnexpected(error: unknown): string {
  if (!(error instanceof Error)) return 'no error was given'
  const frames = (error.stack ?? '').split('\n').filter((line) => /^\s+at /.test(line))
  return [error.name, ...frames.slice(0, 6)].join('\n')
}

function help(words: readonly string[], output: CliOutput): number {
  const asked = words.filter((word) => !isHelp(word))
  const [group] = asked
  if (group === undefined) {
    output.out(programHelp(commands))
    return exitCodes.good
  }
  const found = findCommand(asked)
  const members = groupOf(group)
  if (found !== undefined) output.out(commandHelp(found.command))
  else if (members.length > 0) output.out(groupHelp(group, members))
  else return unknown(asked, output)
  return exitCodes.good
}

function groupOf(word: string): readonly Command[] {
  return commands.filter(({ name }) => name.startsWith(`${word} `))
}

function unknown(argv: readonly string[], output: CliOutput): number {
  const [first = '', second] = argv
  const members = groupOf(first)
  if (members.length > 0 && (second === undefined || second.startsWith('-'))) {
    output.err(groupHelp(first, members))
    return exitCodes.refused
  }
  const typed = members.length > 0 ? `${first} ${second ?? ''}` : first
  const words = members.length > 0 ? members : commands
  const near =
    nearest(
      typed,
      words.map(({ name }) => name),
    ) ??
    nearest(
      first,
      words.map(({ name }) => name.split(' ')[0] ?? name),
    )
  const shown = /^[A-Za-z][A-Za-z0-9 -]{0,60}$/.test(typed) ? ` ${typed}` : ''
  output.err(
    `Unknown command${shown}.${near === undefined ? '' : ` Did you mean onbehalf ${near}?`}\n`,
  )
  output.err('`onbehalf --help` lists the commands.\n')
  return exitCodes.refused
}
