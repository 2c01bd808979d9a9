import type { Command } from './command.ts'

const gettingStarted = `Start with:
  onbehalf demo            see it work, with no configuration
  onbehalf init            write onbehalf.yaml and .env.example
  onbehalf config check    check them
  onbehalf serve           run the service

onbehalf <command> --help says more about one.
Exit codes: 0 good, 1 the check or call failed, 2 wrong usage or a refused configuration.
`

/** What `onbehalf --help` prints. */
export function programHelp(commands: readonly Command[]): string {
  return `onbehalf lets a tool proxy call upstream APIs as the person behind the request.

Usage: onbehalf <command> [options]

Commands:
${commandList(commands)}
${gettingStarted}`
}

/** What `onbehalf keys` prints: a first word that several commands share. */
export function groupHelp(group: string, commands: readonly Command[]): string {
  return `Usage: onbehalf ${group} <command> [options]

Commands:
${commandList(commands)}`
}

export function commandHelp(command: Command): string {
  const options = Object.entries(command.options ?? {})
  const lines = options.map(([name, { short, value, summary }]): [string, string] => [
    `${short === undefined ? '    ' : `-${short}, `}--${name}${value === undefined ? '' : ` ${value}`}`,
    summary,
  ])
  return `${command.summary}

Usage: ${usage(command)}

${command.help}
${lines.length === 0 ? '' : `\nOptions:\n${columns(lines)}`}`
}

export function usage({ name, positionals = [], options = {} }: Command): string {
  const hasOptions = Object.keys(options).length > 0
  return ['onbehalf', name, ...positionals, ...(hasOptions ? ['[options]'] : [])].join(' ')
}

function commandList(commands: readonly Command[]): string {
  return columns(commands.map(({ name, summary }) => [name, summary]))
}

function columns(lines: readonly (readonly [string, string])[]): string {
  const width = Math.min(34, Math.max(...lines.map(([left]) => left.length)))
  return lines
    .map(([left, right]) =>
      left.length > width
        ? `  ${left}\n  ${' '.repeat(width)}  ${right}\n`
        : `  ${left.padEnd(width)}  ${right}\n`,
    )
    .join('')
}
