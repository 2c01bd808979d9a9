import * as z from 'zod'
import { filterOptions, filterQuery } from './activity-filter.ts'
import { createRecordPrinter, parseRecord } from './activity-record.ts'
import { apiOptions } from './bearer.ts'
import { type BrokerApi, openBrokerApi } from './broker-api.ts'
import { CommandFailure } from './cli-error.ts'
import { type Command, exitCodes } from './command.ts'
import { outputOption, readFormat } from './output-format.ts'
import { clearLine, progressBar } from './progress-bar.ts'

const formats = ['ndjson', 'csv', 'json', 'table'] as const

/** Before there can be a record. */
const longAgo = '2000-01-01'

export const activityExport: Command = {
  name: 'activity export',
  summary: 'Export records, all of them.',
  help: `Writes every record that fits, newest first, without a limit. This needs an admin.
For example: \`onbehalf activity export -o csv --since 2026-11-01 > activity.csv\`.
In CSV a cell that a spreadsheet would take for a formula begins with an apostrophe.
Exit code 1 when the export was cut off; what was written until then is right.`,
  options: { ...apiOptions, ...outputOption(formats), ...filterOptions },
  run: async (context) => {
    const { output } = context
    const format = readFormat(context, formats)
    const query = filterQuery(context.options)
    const api = await openBrokerApi(context)
    const total = output.isWatched ? await totalOf(api, query) : undefined
    const draw = output.isWatched ? progressBar(output.err) : () => {}
    const printer = createRecordPrinter(format, output)
    let done = 0
    try {
      for await (const line of api.lines(`/api/v1/activity/export?${query.toString()}`)) {
        printer.print(parseRecord(line))
        done += 1
        draw(done, total)
      }
    } catch (error) {
      if (!(error instanceof CommandFailure) || done === 0) throw error
      throw new CommandFailure(`${error.message} ${done} records were written.`)
    } finally {
      if (output.isWatched) output.err(clearLine)
    }
    printer.end()
    if (output.isWatched) output.err(`${done} records.\n`)
    return exitCodes.good
  },
}

/** How many records fit, for the bar alone: an export does not fail because counting does. */
async function totalOf(api: BrokerApi, filters: URLSearchParams): Promise<number | undefined> {
  const query = new URLSearchParams(filters)
  query.set('bucket', '1d')
  if (!query.has('since')) query.set('since', longAgo)
  const answer = z.object({ items: z.array(z.object({ count: z.number() })) })
  try {
    const { items } = await api.get(`/api/v1/activity/summary?${query.toString()}`, answer)
    return items.reduce((sum, { count }) => sum + count, 0)
  } catch {
    return undefined
  }
}
