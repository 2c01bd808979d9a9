import * as z from 'zod'
import {
  activityBuckets,
  activityGroupings,
  type ActivityGrouping,
} from '../core/ports/activity-reports.ts'
import { filterOptions, filterQuery } from './activity-filter.ts'
import { apiOptions } from './bearer.ts'
import { openBrokerApi } from './broker-api.ts'
import { UsageError } from './cli-error.ts'
import { type Command, type CommandContext, exitCodes } from './command.ts'
import { outputOption, readChoice, readFormat } from './output-format.ts'
import { printableJson, renderCsv, renderTable } from './terminal-text.ts'

const formats = ['table', 'json', 'ndjson', 'csv'] as const

/** Only the fields that were asked for are read. */
function answerOf(groups: readonly ActivityGrouping[]) {
  const group = z.string().nullable()
  const fields = Object.fromEntries(groups.map((name) => [name, group]))
  return z.object({
    items: z.array(z.object({ bucket: z.string(), ...fields, count: z.number() })),
  })
}

export const activitySummary: Command = {
  name: 'activity summary',
  summary: 'Count records over time.',
  help: `Counts the records of each minute, hour or day, apart by the fields that --group-by names. This needs an admin.
Without --since it goes back 6 hours (1m), 7 days (1h) or 90 days (1d).
For example: \`onbehalf activity summary --bucket 1d --group-by upstream,outcome\`.`,
  options: {
    ...apiOptions,
    ...outputOption(formats),
    bucket: { value: activityBuckets.join('|'), summary: 'How long each is. Default: 1h.' },
    'group-by': {
      value: 'FIELDS',
      repeatable: true,
      summary: `Count apart by these: ${activityGroupings.join(', ')}.`,
    },
    ...filterOptions,
  },
  run: async (context) => {
    const { options, output } = context
    const format = readFormat(context, formats)
    const query = filterQuery(options)
    const bucket = options.value('bucket')
    if (bucket !== undefined) query.set('bucket', readChoice('--bucket', bucket, activityBuckets))
    const groups = readGroups(context)
    for (const group of groups) query.append('group_by', group)

    const path = `/api/v1/activity/summary?${query.toString()}`
    const answer = await (await openBrokerApi(context)).get(path, answerOf(groups))
    const columns = ['bucket', ...groups, 'count'] as const
    const rows = answer.items.map((item) => {
      const cells: Readonly<Record<string, string | number | null>> = item
      return columns.map((column) => (cells[column] == null ? null : String(cells[column])))
    })
    if (format === 'json') output.out(`${printableJson(answer)}\n`)
    else if (format === 'ndjson') {
      for (const item of answer.items) output.out(`${printableJson(item, 0)}\n`)
    } else if (format === 'csv') output.out(renderCsv([columns, ...rows]))
    else if (rows.length === 0) output.out('There are no records.\n')
    else {
      const head = columns.map((column) => column.toUpperCase().replace('_', ' '))
      output.out(renderTable(head, rows, { columns: output.columns }))
    }
    return exitCodes.good
  },
}

/** @throws UsageError */
function readGroups({ options }: CommandContext): readonly ActivityGrouping[] {
  const written = options.values('group-by').flatMap((value) => value.split(','))
  if (written.includes('')) throw new UsageError('--group-by has an empty value.')
  return [
    ...new Set(
      written.map((name) => readChoice('--group-by', name.replaceAll('-', '_'), activityGroupings)),
    ),
  ]
}
