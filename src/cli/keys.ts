import type { KeyStatus, RecordedRewrap } from '../core/ports/key-reports.ts'
import { type Command, exitCodes } from './command.ts'
import { configOption, withConfiguration } from './config-file.ts'
import { outputOption, readFormat } from './output-format.ts'
import { printable, printableJson, renderTable } from './terminal-text.ts'

export const keysGenerate: Command = {
  name: 'keys generate',
  summary: 'Make a new encryption key.',
  help: `Prints one line, the base64 of 32 random bytes, and nothing else. Keep it where you keep secrets:
whoever has it and the database has everybody's credentials, and without it they are lost.

Put it into the variable that \`encryption.keys\` names, for example ONBEHALF_KEY.
To replace a key, add the new one last on every replica, then move it first, then run
\`onbehalf keys rewrap\`, and remove the old one when \`onbehalf keys status\` shows it as removable.`,
  run: ({ services, output }) => {
    output.out(`${services.generateKey()}\n`)
    return Promise.resolve(exitCodes.good)
  },
}

const formats = ['table', 'json'] as const

export const keysStatus: Command = {
  name: 'keys status',
  summary: 'Show how much is sealed under each key.',
  help: `Counts the sealed values of the database by key id. A key can be removed from the configuration
when it is removable: it seals nothing new and nothing is left under it.
Exit code 1 when \`serve\` would refuse the keys: the database uses a key id that the configuration lacks, or
knows one by another secret.`,
  options: { ...configOption, ...outputOption(formats) },
  run: (context) => {
    const format = readFormat(context, formats)
    return withConfiguration(context, async (configuration) => {
      const report = await configuration.keyStatus()
      const keys = report.keys.map(({ id, rows, configured, seals, removable }) => ({
        id,
        rows,
        configured,
        seals,
        removable,
      }))
      context.output.out(format === 'json' ? `${printableJson({ keys })}\n` : renderKeys(keys))
      for (const problem of report.problems) context.output.err(`${printable(problem)}\n`)
      return report.problems.length > 0 ? exitCodes.failed : exitCodes.good
    })
  },
}

export const keysRewrap: Command = {
  name: 'keys rewrap',
  summary: 'Re-seal every row under the first key.',
  help: `Moves everything that is sealed to the first key of the configuration, while brokers serve. A refresh that
happens meanwhile is kept. It may be ended at any time, even by \`kill -9\`, and run again: it goes on where it was.
Leaves one record (key_rewrap) in the activity log.

Before this, every broker must have the key, first or last, or it cannot read what is moved. Afterwards
\`onbehalf keys status\` says whether the old one can be removed.
Exit code 1 when something is left under another key.`,
  options: configOption,
  run: (context) =>
    withConfiguration(context, async (configuration) => {
      const { output } = context
      const report = await configuration.rewrapKeys((rows, rowsToMove) => {
        if (output.isWatched) output.err(`\r${rows} of ${Math.max(rows, rowsToMove)} rows`)
      })
      if (output.isWatched && report.rows > 0) output.err('\n')
      const key = printable(report.keyId)
      output.out(`Moved ${report.rows} ${report.rows === 1 ? 'row' : 'rows'} to key ${key}.\n`)
      const problems = rewrapProblems(report)
      for (const problem of problems) output.err(`${problem}\n`)
      return problems.length > 0 ? exitCodes.failed : exitCodes.good
    }),
}

function rewrapProblems({ keyId, unopened, end, recorded }: RecordedRewrap): readonly string[] {
  const problems: string[] = []
  if (end === 'stopped') problems.push('Stopped. Run it again: it goes on where it was.')
  if (end === 'outrun') {
    problems.push(
      `A broker goes on sealing under another key. Put ${printable(keyId)} first on every replica, then run it again.`,
    )
  }
  if (unopened > 0) {
    const are = unopened === 1 ? 'value does' : 'values do'
    problems.push(
      `${unopened} ${are} not open with any configured key. They were left as they are: connecting again or a disconnect replaces them.`,
    )
  }
  if (!recorded)
    problems.push('The activity log has no record of this: the database did not take it.')
  return problems
}

function renderKeys(keys: readonly KeyStatus[]): string {
  const yes = (value: boolean): string => (value ? 'yes' : 'no')
  return renderTable(
    ['ID', 'ROWS', 'CONFIGURED', 'SEALS', 'REMOVABLE'],
    keys.map(({ id, rows, configured, seals, removable }) => [
      id,
      String(rows),
      yes(configured),
      yes(seals),
      yes(removable),
    ]),
  )
}
