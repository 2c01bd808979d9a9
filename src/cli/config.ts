import { type Command, exitCodes } from './command.ts'
import { configOption, describe, withConfiguration } from './config-file.ts'
import type { Configuration } from './services.ts'
import { printable } from './terminal-text.ts'

export const configCheck: Command = {
  name: 'config check',
  summary: 'Check the configuration; says every problem at once.',
  help: `Looks at the file and the environment only, never at the network or the database.
Exit code 0 when \`serve\` would accept the file, else 2 with one line a problem.
Set the variables that the file names first, for example from your .env file.`,
  options: configOption,
  run: (context) =>
    withConfiguration(context, (configuration, file) => {
      for (const warning of configuration.warnings) {
        context.output.err(`warning: ${describe(warning)}\n`)
      }
      context.output.out(`${printable(file)} is good: ${summarise(configuration.summary)}.\n`)
      return Promise.resolve(exitCodes.good)
    }),
}

function summarise({ issuers, services, upstreams, database }: Configuration['summary']): string {
  const count = (number: number, word: string): string =>
    `${number} ${word}${number === 1 ? '' : 's'}`
  const where = database === 'embedded' ? 'the embedded database' : 'PostgreSQL'
  return `${count(issuers, 'issuer')}, ${count(upstreams, 'upstream')}, ${count(services, 'service')}, ${where}`
}

export const configSchema: Command = {
  name: 'config schema',
  summary: 'Print the JSON Schema of the configuration file.',
  help: `Prints JSON Schema (draft 2020-12), which editors use to complete and check the file:
  onbehalf config schema > onbehalf.schema.json
and as the first line of onbehalf.yaml:
  # yaml-language-server: $schema=./onbehalf.schema.json`,
  run: ({ services, output }) => {
    output.out(`${JSON.stringify(services.configSchema(), undefined, 2)}\n`)
    return Promise.resolve(exitCodes.good)
  },
}
