import { z } from '@hono/zod-openapi'
import {
  auditActions,
  auditMethods,
  auditOutcomes,
  auditReasons,
  auditTypes,
} from '../core/audit-event.ts'
import { BrokerError } from '../core/errors.ts'
import {
  type ActivityBucket,
  activityBuckets,
  type ActivityExportFormat,
  activityExportFormats,
  type ActivityGrouping,
  activityGroupings,
} from '../core/ports/activity-reports.ts'
import type { ActivityFilter, ActivityPosition } from '../core/ports/activity-store.ts'
import { decodeActivityCursor } from './activity-cursor.ts'
import { parseQueryInstant } from './query-instant.ts'

/** A question for a page of the activity log. */
export type ActivityQuery = {
  readonly filter: ActivityFilter
  readonly limit: number
  readonly after: ActivityPosition | undefined
}

/** As many as anybody clicks together; more only makes the database work. */
const MOST_VALUES = 100
const LONGEST_ID = 1024

const idExpectation = `Ids of 1 to ${LONGEST_ID} characters without control characters, ${MOST_VALUES} at most.`
const instantExpectation =
  'One instant of RFC 3339, such as 2026-01-31T09:30:00Z, or one date, such as 2026-01-31.'

/** What each parameter takes, for the answer that refuses another value. Our own words: the value itself never appears. */
const expectations: Readonly<Record<string, string>> = {
  type: oneOf(auditTypes),
  user_id: idExpectation,
  issuer: idExpectation,
  upstream: `Names of upstreams, ${MOST_VALUES} at most.`,
  action: oneOf(auditActions),
  method: oneOf(auditMethods),
  outcome: oneOf(auditOutcomes),
  reason: oneOf(auditReasons),
  request_id: `UUIDs, ${MOST_VALUES} at most.`,
  actor_id: idExpectation,
  since: instantExpectation,
  until: instantExpectation,
  limit: 'One whole number from 1 to 1000.',
  cursor: 'One `next_cursor` of an earlier answer, unchanged.',
  bucket: `One of: ${activityBuckets.join(', ')}.`,
  group_by: oneOf(activityGroupings),
  format: `One of: ${activityExportFormats.join(', ')}.`,
}

function oneOf(words: readonly string[]): string {
  return `One or more of: ${words.join(', ')}.`
}

function anyOf<Item extends z.ZodType>(item: Item, description: string) {
  return z
    .array(item)
    .min(1)
    .max(MOST_VALUES)
    .optional()
    .describe(`${description} Several, with commas or repeated: any of them.`)
}

const id = z
  .string()
  .min(1)
  .max(LONGEST_ID)
  .regex(/^\P{Cc}+$/u)
  // Written again here and below: the generator of the document keeps the flag as text, and such a pattern fits nothing.
  .openapi({ pattern: '^\\P{Cc}+$' })
const uuid = z
  .string()
  .regex(/^[\da-f]{8}(?:-[\da-f]{4}){3}-[\da-f]{12}$/i)
  .openapi({ format: 'uuid', pattern: '^[\\dA-Fa-f]{8}(?:-[\\dA-Fa-f]{4}){3}-[\\dA-Fa-f]{12}$' })
const instant = z
  .string()
  .transform((text, context) => parseQueryInstant(text) ?? refuse(context))
  .optional()

const filters = {
  type: anyOf(z.enum(auditTypes), 'What kind of record.'),
  user_id: anyOf(id, 'Whose credential it was.'),
  issuer: anyOf(id, 'Of which issuer that person is.'),
  upstream: anyOf(z.string().regex(/^[a-z0-9-]{1,63}$/), 'For which upstream.'),
  action: anyOf(z.enum(auditActions), 'What was done.'),
  method: anyOf(z.enum(auditMethods), 'How the credential came to be.'),
  outcome: anyOf(z.enum(auditOutcomes), 'How it ended.'),
  reason: anyOf(z.enum(auditReasons), 'Why it failed.'),
  request_id: anyOf(uuid, 'In which request.'),
  actor_id: anyOf(id, 'Who did it.'),
  since: instant.openapi({
    type: 'string',
    description: 'Not before this instant (RFC 3339) or date.',
  }),
  until: instant.openapi({
    type: 'string',
    description: 'Before this instant (RFC 3339) or date.',
  }),
}

/** The query of a page. */
export const activityQuery = z.strictObject({
  ...filters,
  limit: z
    .string()
    .regex(/^(?:[1-9]\d{0,2}|1000)$/)
    .transform(Number)
    .default(50)
    .openapi({ type: 'integer', minimum: 1, maximum: 1000, default: 50 }),
  cursor: z
    .string()
    .transform((text, context) => decodeActivityCursor(text) ?? refuse(context))
    .optional()
    .openapi({ type: 'string', description: '`next_cursor` of the page before.' }),
})

/** The query of what takes filters alone. */
export const activityFilterQuery = z.strictObject(filters)

export const activitySummaryQuery = z.strictObject({
  ...filters,
  bucket: z
    .enum(activityBuckets)
    .default('1h')
    .describe('How long each bucket is; they begin at whole ones of UTC.'),
  group_by: z
    .array(z.enum(activityGroupings))
    .min(1)
    .max(activityGroupings.length)
    .optional()
    .describe('Count these apart.'),
})

export const activityExportQuery = z.strictObject({
  ...filters,
  format: z.enum(activityExportFormats).default('ndjson').describe('One record a line.'),
})

/** Parameters of which a second one is refused; all others may be repeated. */
const onceOnly: ReadonlySet<string> = new Set([
  'since',
  'until',
  'limit',
  'cursor',
  'bucket',
  'format',
])

function refuse(context: z.RefinementCtx): never {
  context.addIssue({ code: 'custom' })
  return z.NEVER
}

/** Reads the query for a page. @throws BrokerError invalid_request naming the parameter. */
export function parseActivityQuery(params: URLSearchParams): ActivityQuery {
  const { limit, cursor, ...rest } = read(activityQuery, params)
  return { filter: filterOf(rest), limit, after: cursor }
}

/** Reads the query of what takes filters alone. @throws BrokerError invalid_request naming the parameter. */
export function parseActivityFilter(params: URLSearchParams): ActivityFilter {
  return filterOf(read(activityFilterQuery, params))
}

/** What is to be counted, and how. */
export type ActivitySummaryQuery = {
  readonly filter: ActivityFilter
  readonly bucket: ActivityBucket
  readonly groupBy: readonly ActivityGrouping[]
}

/** @throws BrokerError invalid_request naming the parameter. */
export function parseActivitySummaryQuery(params: URLSearchParams): ActivitySummaryQuery {
  const { bucket, group_by, ...rest } = read(activitySummaryQuery, params)
  const filter = filterOf(rest)
  const { since, until } = filter
  if (since !== undefined && until !== undefined && since >= until) {
    throw new BrokerError('invalid_request', { field: 'until', expectation: 'Later than `since`.' })
  }
  return { filter, bucket, groupBy: [...new Set(group_by)] }
}

/** @throws BrokerError invalid_request naming the parameter. */
export function parseActivityExportQuery(params: URLSearchParams): {
  readonly filter: ActivityFilter
  readonly format: ActivityExportFormat
} {
  const { format, ...rest } = read(activityExportQuery, params)
  return { filter: filterOf(rest), format }
}

function read<Query extends z.ZodObject>(query: Query, params: URLSearchParams): z.output<Query> {
  const input: Record<string, string | string[] | undefined> = {}
  for (const name of new Set(params.keys())) {
    if (!Object.hasOwn(query.shape, name)) throw unknownParameter(name)
    const values = params.getAll(name)
    if (!onceOnly.has(name)) input[name] = values.flatMap((value) => value.split(','))
    else if (values.length === 1) input[name] = values[0]
    else throw badValue(name)
  }
  const result = query.safeParse(input)
  if (!result.success) throw badValue(String(result.error.issues[0]?.path[0]))
  return result.data
}

function filterOf({
  user_id,
  request_id,
  actor_id,
  ...rest
}: z.output<typeof activityFilterQuery>): ActivityFilter {
  return { ...rest, userId: user_id, requestId: request_id, actorId: actor_id }
}

function unknownParameter(name: string): BrokerError {
  return new BrokerError('invalid_request', {
    // A name of the caller's own making appears only where it looks like a name.
    field: /^[A-Za-z][\w.[\]-]{0,39}$/.test(name) ? name : 'query',
    expectation: 'There is no such parameter.',
  })
}

function badValue(name: string): BrokerError {
  const expectation = expectations[name]
  return new BrokerError('invalid_request', {
    field: name,
    ...(expectation === undefined ? {} : { expectation }),
  })
}
