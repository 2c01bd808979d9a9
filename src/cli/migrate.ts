import { type Command, exitCodes } from './command.ts'
import { configOption, withConfiguration } from './config-file.ts'

export const migrate: Command = {
  name: 'migrate',
  summary: 'Bring the database to this version.',
  help: `Applies what is missing of the migrations, under a lock: several at once do no harm.
\`serve\` does it by itself on the embedded database only, and refuses an older database otherwise.`,
  options: configOption,
  run: (context) =>
    withConfiguration(context, async (configuration) => {
      const applied = await configuration.migrate()
      context.output.out(
        applied === 0
          ? 'The database is up to date.\n'
          : `Applied ${applied} ${applied === 1 ? 'migration' : 'migrations'}.\n`,
      )
      return exitCodes.good
    }),
}
