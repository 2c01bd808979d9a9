import * as z from 'zod'
import { filterOptions, filterQuery, isUuid } from './activity-filter.ts'
import {
  activityRecord,
  type PrintedRecord,
  recordAsTable,
  recordsAsCsv,
  recordsAsTable,
} from './activity-record.ts'
import { apiOptions } from './bearer.ts'
import { openBrokerApi } from './broker-api.ts'
import { UsageError } from './cli-error.ts'
import { type Command, exitCodes } from './command.ts'
import { outputOption, readFormat } from './output-format.ts'
import { printable, printableJson } from './terminal-text.ts'

const formats = ['table', 'json', 'ndjson', 'csv'] as const

const page = z.object({ items: z.array(activityRecord), next_cursor: z.string().nullable() })

export const activityList: Command = {
  name: 'activity list',
  summary: 'Show who used what, newest first.',
  help: `Shows records of the activity log, newest first. An admin sees everybody's; with --mine anybody sees their own.
Next: \`onbehalf activity show ID\` shows one with every field.`,
  options: {
    ...apiOptions,
    ...outputOption(formats),
    mine: { summary: 'My own records; needs no admin.' },
    ...filterOptions,
    limit: { value: 'NUMBER', summary: 'How many, 1 to 1000. Default: 50.' },
    cursor: { value: 'CURSOR', summary: 'Where the page before ended.' },
  },
  run: async (context) => {
    const { options, output } = context
    const format = readFormat(context, formats)
    const query = filterQuery(options)
    const limit = readLimit(options.value('limit'))
    if (limit !== undefined) query.set('limit', limit)
    const cursor = options.value('cursor')
    if (cursor !== undefined) query.set('cursor', cursor)
    const path = options.has('mine') ? '/api/v1/me/activity' : '/api/v1/activity'

    const answer = await (await openBrokerApi(context)).get(`${path}?${query.toString()}`, page)
    if (format === 'json') output.out(`${printableJson(answer)}\n`)
    else if (format === 'table' && answer.items.length === 0) output.out('There are no records.\n')
    else output.out(renderRecords[format](answer.items, output.columns))
    if (format !== 'json' && answer.next_cursor !== null) {
      output.err(`There are more: --cursor ${printable(answer.next_cursor)}\n`)
    }
    return exitCodes.good
  },
}

const renderRecords: Readonly<
  Record<
    'table' | 'ndjson' | 'csv',
    (records: readonly PrintedRecord[], columns?: number) => string
  >
> = {
  table: recordsAsTable,
  ndjson: (records) => records.map((record) => `${printableJson(record, 0)}\n`).join(''),
  csv: recordsAsCsv,
}

function readLimit(value: string | undefined): string | undefined {
  if (value === undefined) return undefined
  const limit = /^\d{1,4}$/.test(value) ? Number(value) : 0
  if (limit >= 1 && limit <= 1000) return String(limit)
  throw new UsageError('--limit must be a whole number from 1 to 1000.')
}

export const activityShow: Command = {
  name: 'activity show',
  positionals: ['<ID>'],
  summary: 'Show one record.',
  help: `Shows every field of one record. This needs an admin. The ids stand in \`onbehalf activity list\`.`,
  options: { ...apiOptions, ...outputOption(formats) },
  run: async (context) => {
    const format = readFormat(context, formats)
    const [id = ''] = context.positionals
    if (!isUuid(id)) throw new UsageError('<ID> must be the UUID of a record.')
    const record = await (await openBrokerApi(context)).get(
      `/api/v1/activity/${id.toLowerCase()}`,
      activityRecord,
    )
    const { output } = context
    if (format === 'json') output.out(`${printableJson(record)}\n`)
    else if (format === 'table') output.out(recordAsTable(record))
    else output.out(renderRecords[format]([record]))
    return exitCodes.good
  },
}
