import { filterOptions, filterQuery } from './activity-filter.ts'
import { createRecordPrinter, parseRecord } from './activity-record.ts'
import { apiOptions } from './bearer.ts'
import { openBrokerApi } from './broker-api.ts'
import { CommandFailure } from './cli-error.ts'
import type { Command } from './command.ts'
import { outputOption, readFormat } from './output-format.ts'

const formats = ['table', 'json', 'ndjson', 'csv'] as const

/** Pauses before it connects again, in milliseconds. */
const pauses = [200, 1000, 2000, 5000, 10_000] as const
/** What is repeated after a connection was lost are the last seconds. */
const remembered = 10_000

const { since: _since, until: _until, ...liveFilters } = filterOptions

export const activityTail: Command = {
  name: 'activity tail',
  summary: 'Follow the activity log.',
  help: `Prints records as they come in, until Ctrl-C. This needs an admin.
A connection that is lost is made again, and goes on where it was.`,
  options: { ...apiOptions, ...outputOption(formats), ...liveFilters },
  run: async (context) => {
    const { output } = context
    const format = readFormat(context, formats)
    const query = filterQuery(context.options)
    const api = await openBrokerApi(context)
    // An array would end only with the following.
    const printer = createRecordPrinter(format === 'json' ? 'ndjson' : format, output)
    const seen = new Set<string>()
    let last: string | undefined
    let isConnectedOnce = false
    for (let failures = 0; ; failures += 1) {
      try {
        const headers = {
          accept: 'text/event-stream',
          ...(last === undefined ? {} : { 'last-event-id': last }),
        }
        const path = `/api/v1/activity/stream?${query.toString()}`
        for await (const line of api.lines(path, headers)) {
          if (failures > 0) output.err('Connected again.\n')
          failures = 0
          if (!isConnectedOnce && output.isWatched) {
            output.err('Following the activity log from now on. Ctrl-C ends it.\n')
          }
          isConnectedOnce = true
          if (!line.startsWith('data: ')) continue
          const record = parseRecord(line.slice('data: '.length))
          last = record.id
          if (seen.has(record.id)) continue
          remember(seen, record.id)
          printer.print(record)
        }
      } catch (error) {
        if (!(error instanceof CommandFailure) || !isConnectedOnce) throw error
        const isForgotten = error.code === 'invalid_request' && last !== undefined
        if (!isForgotten && refusals.includes(error.code ?? '')) throw error
        if (isForgotten) {
          output.err(
            'The broker knows that place no more: what came in meanwhile is missing here.\n',
          )
          last = undefined
        }
      }
      if (failures === 0) output.err('The connection was lost; connecting again …\n')
      await pause(pauses[Math.min(failures, pauses.length - 1)] ?? 0)
    }
  },
}

/** What the broker would answer the next time, too. */
const refusals: readonly string[] = [
  'unauthenticated',
  'forbidden',
  'insufficient_scope',
  'invalid_request',
  'not_found',
]

function remember(ids: Set<string>, id: string): void {
  ids.add(id)
  if (ids.size <= remembered) return
  for (const oldest of ids) {
    ids.delete(oldest)
    return
  }
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve, ms)
  })
}
