import { randomBytes } from 'node:crypto'
import { type Command, exitCodes } from './command.ts'
import { configOption, withConfiguration } from './config-file.ts'
import { outputOption, readFormat } from './output-format.ts'
import type { KeyStatus } from './services.ts'
import { printable, printableJson, renderTable } from './terminal-text.ts'

export const keysGenerate: Command = {
  name: 'keys generate',
  summary: 'Make a new encryption key.',
  help: `Prints one line, the base64 of 32 random bytes, and nothing else. Keep it where you keep secrets:
whoever has it and the database has everybody's credentials, and without it they are lost.

Put it into the variable that \`encryption.keys\` names, for example ONBEHALF_KEY.
To replace a key, add the new one last on every replica, then move it first, and remove the old
one when \`onbehalf keys status\` shows it as removable.`,
  run: ({ output }) => {
    output.out(`${randomBytes(32).toString('base64')}\n`)
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
