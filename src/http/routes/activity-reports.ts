import { z } from '@hono/zod-openapi'
import { BrokerError } from '../../core/errors.ts'
import {
  type ActivityBucket,
  type ActivityCount,
  type ActivityExportFormat,
  type ActivityGrouping,
  activityGroupings,
} from '../../core/ports/activity-reports.ts'
import {
  activityExportQuery,
  activitySummaryQuery,
  parseActivityExportQuery,
  parseActivitySummaryQuery,
} from '../activity-query.ts'
import type { HttpContext } from '../http-env.ts'
import type { Routes } from '../routing.ts'
import type { HttpServices } from '../services.ts'
import { streamOfPieces } from '../piece-stream.ts'

const MOST_COUNTS = 10_000

const DAY_MS = 86_400_000
/** How far back a summary goes that names no beginning. */
const spans: Readonly<Record<ActivityBucket, number>> = {
  '1m': DAY_MS / 4,
  '1h': 7 * DAY_MS,
  '1d': 90 * DAY_MS,
}

const groupValue = z.string().nullable().optional()
const count = z
  .object({
    bucket: z.iso.datetime().describe('When it begins'),
    count: z.int(),
    ...Object.fromEntries(activityGroupings.map((name) => [name, groupValue])),
  })
  .openapi('ActivityCount')

/** Questions that go over many records. */
export function addActivityReportRoutes(
  routes: Routes,
  services: Pick<HttpServices, 'activityReports' | 'clock'>,
): void {
  const { activityReports, clock } = services

  routes.add(
    {
      method: 'get',
      path: '/api/v1/activity/summary',
      caller: 'activity_reader',
      operation: {
        tag: 'Activity',
        summary: 'How many records, over time',
        description: `Oldest bucket first; one without a record is left out. Without \`since\` it goes back 6 hours (\`1m\`), 7 days (\`1h\`) or 90 days (\`1d\`). More than ${MOST_COUNTS} counts, or a count of more than 5 s, is refused.`,
        query: activitySummaryQuery,
        success: {
          status: 200,
          description: 'The counts, each with the fields that they were told apart by.',
          content: { type: 'application/json', schema: z.object({ items: z.array(count) }) },
        },
        refusals: [],
      },
    },
    async (c) => {
      const { filter, bucket, groupBy } = parseActivitySummaryQuery(paramsOf(c))
      const end = filter.until ?? clock.now()
      const since = filter.since ?? new Date(Math.max(end.getTime() - spans[bucket], YEAR_1))
      const counts = await activityReports.summarize({
        filter: { ...filter, since },
        bucket,
        groupBy,
        mostCounts: MOST_COUNTS,
      })
      if (counts === 'too_many') {
        throw refused(
          'bucket',
          `These are more than ${MOST_COUNTS} counts. Ask for a longer bucket, a shorter period or fewer groups.`,
        )
      }
      if (counts === 'too_long') {
        throw refused('since', 'Counting took too long. Ask for a shorter period, or filter more.')
      }
      return c.json({ items: counts.map((found) => countJson(found, groupBy)) })
    },
  )

  routes.add(
    {
      method: 'get',
      path: '/api/v1/activity/export',
      caller: 'activity_reader',
      operation: {
        tag: 'Activity',
        summary: 'Every record that fits',
        description:
          'Streamed, newest first, without a limit. In CSV a cell that a spreadsheet would take for a formula begins with an apostrophe. An answer that does not end properly was cut off.',
        query: activityExportQuery,
        success: {
          status: 200,
          description: 'One record a line, as NDJSON or CSV.',
          content: { type: 'application/x-ndjson', schema: z.string() },
        },
        refusals: [],
      },
    },
    async (c) => {
      const { filter, format } = parseActivityExportQuery(paramsOf(c))
      const abort = new AbortController()
      const pieces = activityReports.export(filter, format, abort.signal)[Symbol.asyncIterator]()
      // Before the answer begins: a database that is away is still a 503.
      const first = await pieces.next()
      return c.body(
        streamOfPieces(first, pieces, () => abort.abort()),
        200,
        {
          'content-type': contentTypes[format],
          'content-disposition': `attachment; filename="activity.${format}"`,
        },
      )
    },
  )
}

const YEAR_1 = Date.parse('0001-01-01T00:00:00Z')

const contentTypes: Readonly<Record<ActivityExportFormat, string>> = {
  ndjson: 'application/x-ndjson',
  csv: 'text/csv; charset=utf-8; header=present',
}

function paramsOf(c: HttpContext): URLSearchParams {
  return new URL(c.req.url).searchParams
}

function countJson(
  { bucket, values, count: records }: ActivityCount,
  groupBy: readonly ActivityGrouping[],
): { bucket: string; count: number } {
  const groups = Object.fromEntries(groupBy.map((name, index) => [name, values[index] ?? null]))
  return { bucket: bucket.toISOString(), ...groups, count: records }
}

function refused(field: string, expectation: string): BrokerError {
  return new BrokerError('invalid_request', { field, expectation })
}
