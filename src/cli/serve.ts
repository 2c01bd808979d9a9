import type { Command } from './command.ts'
import { configOption, withConfiguration } from './config-file.ts'

export const serve: Command = {
  name: 'serve',
  summary: 'Run the service.',
  help: `Checks the configuration, opens the database and serves until SIGTERM or SIGINT.
Logs one JSON object a line on stdout; the line with "event":"ready" has the URL.

On a database of your own, run \`onbehalf migrate\` first. The embedded database needs nothing.
No configuration yet? \`onbehalf init\` writes one, \`onbehalf demo\` needs none.`,
  options: configOption,
  run: (context) =>
    withConfiguration(context, (configuration) => configuration.serve(context.output)),
}
