import { and, eq } from 'drizzle-orm'
import type { ActivityFilter, ActivityRecord, ActivityStore } from '../core/ports/activity-store.ts'
import { uuidTimeMs } from '../core/uuid-time.ts'
import {
  isUncommon,
  kindOfRecord,
  recordColumns,
  recordMatches,
  recordOfRow,
  type RecordRow,
  recordValues,
  shapeMatches,
  shapeOfRecord,
  shapeValues,
} from './activity-rows.ts'
import { type ActivitySpan, before, exactly, spanOf, weekOf } from './activity-span.ts'
import { exactTime } from './activity-text.ts'
import type { Database } from './database.ts'
import { preparedQueryOf } from './prepared-query.ts'
import { lastUse } from './schema/activity.ts'

/**
 * The settings of the connections that pages are read through. Every statement here is written for one index, whatever the
 * values: a plan made for some of them can only be worse, and planning over all weeks takes longer than reading.
 */
export const pageSettings = {
  plan_cache_mode: 'force_generic_plan',
  enable_seqscan: 'off',
  enable_bitmapscan: 'off',
  jit: 'off',
} as const

const newestFirst = 'ORDER BY occurred_at DESC, id DESC'

/** Parameters 11 to 13. The last condition says what the others do, in the form that leaves weeks out. */
const inSpan = `occurred_at >= $11::timestamptz AND (occurred_at, id) < ($12::timestamptz, $13::uuid)
  AND occurred_at <= $12::timestamptz`

/**
 * Walks records in the order of an index and keeps those that match. The fence, OFFSET 0, keeps the planner from choosing an
 * index by what it believes about the filters. Parameter 14 is how many are wanted.
 */
function walk(which: string, fence = 'OFFSET 0'): string {
  return `SELECT ${recordColumns} FROM (
      SELECT ${recordColumns} FROM activity WHERE ${which} AND ${inSpan} ${newestFirst} ${fence}
    ) AS walked WHERE ${recordMatches} LIMIT $14`
}

/** The newest of several walks together. */
function merge(each: string, walked: string): string {
  return `SELECT ${recordColumns} FROM ${each} CROSS JOIN LATERAL (${walked}) AS found ${newestFirst} LIMIT $14`
}

/** With the time of the last record in all six digits: a `Date` has three. */
function shown(found: string): string {
  return `SELECT ${recordColumns}, ${exactTime} AS exactly
    FROM (${found}) AS shown ${newestFirst}`
}

// Parameter 15 is how many of the newest to look at, or the shapes to look for.
const statements = {
  all: shown(walk('true')),
  uncommon: shown(walk(isUncommon)),
  newest: shown(walk('true', 'LIMIT $15::bigint')),
  newestUncommon: shown(walk(isUncommon, 'LIMIT $15::bigint')),
  ofPeople: shown(merge('unnest($8::text[]) AS person', walk('user_id = person'))),
  ofPeopleUncommon: shown(
    merge(
      'unnest($8::text[]) AS person CROSS JOIN unnest($15::bigint[]) AS kind',
      walk(`user_id = person AND ${kindOfRecord} = kind AND ${isUncommon}`),
    ),
  ),
  ofActors: shown(merge('unnest($9::text[]) AS actor', walk('actor_id = actor'))),
  newestOfActors: shown(
    merge('unnest($9::text[]) AS actor', walk('actor_id = actor', 'LIMIT $15::bigint')),
  ),
  ofRequests: shown(merge('unnest($10::uuid[]) AS request', walk('request_id = request'))),
  ofKinds: shown(
    merge('unnest($15::bigint[]) AS kind', walk(`${kindOfRecord} = kind AND ${isUncommon}`)),
  ),
  ofShapes: shown(merge('unnest($15::bigint[]) AS shape', walk(`${shapeOfRecord} = shape`))),
} as const

/** So many neighbours in the log are walked through in the time of ten reads by key; */
const rowsWalkedTogether = 5000
/** and so many records that lie apart; */
const rowsWalkedApart = 2000
/** so many cost less than to look for each kind by itself. */
const rowsWalkedBeforeKinds = 400
/** As many shapes or kinds are looked for without looking at the newest records first. */
const mostKeysAtOnce = 16
/** For more a walk through everything is no worse. */
const mostKeysSought = 400

const dayMs = 86_400_000
/** Of the clocks that an id and its record were made by: it is the same one, unless another program wrote them. */
const idToleranceMs = 1000
/** End of the year 9999: what comes later is written in a way that the database does not read. */
const lastInstantMs = Date.UTC(10_000, 0) - 1

type Shape = { readonly shape: string; readonly kind: string; readonly uncommon: boolean }
type ShownRow = RecordRow & { readonly exactly: string }

/**
 * Finds pages without reading what they do not show, as far as indexes allow. Fields with many values have an index each;
 * those with few have one together, over their *shape*, and a table of the shapes that there are: so a combination that no record
 * has is known at once, and a rare one is found however many records have one of its halves.
 *
 * Give it a pool of its own, with `pageSettings`.
 */
export function createActivityStore(database: Database): ActivityStore {
  const { db, run } = database
  const query = preparedQueryOf(database)

  return {
    async page(filter, limit, after) {
      const rows = await find(unique(filter), spanOf(filter, after), limit + 1)
      const page = rows.slice(0, limit)
      const last = page.at(-1)
      return {
        records: page.map(recordOfRow),
        next:
          rows.length > limit && last !== undefined
            ? { occurredAt: last.exactly, id: last.id }
            : undefined,
      }
    },

    async find(id) {
      // Spares a look at every week.
      const ms = uuidTimeMs(id)
      if (ms === undefined) return findIn(id, '-infinity', 'infinity')
      return (
        (await findIn(id, at(ms - idToleranceMs), at(ms + idToleranceMs))) ??
        (await findIn(id, at(ms - dayMs), at(ms + dayMs)))
      )
    },

    async lastUses(person) {
      const rows = await run(() =>
        db
          .select({ upstream: lastUse.upstream, lastUsedAt: lastUse.lastUsedAt })
          .from(lastUse)
          .where(and(eq(lastUse.issuer, person.issuer), eq(lastUse.userId, person.userId))),
      )
      return new Map(rows.map(({ upstream, lastUsedAt }) => [upstream, lastUsedAt]))
    },
  }

  async function find(
    filter: ActivityFilter,
    span: ActivitySpan,
    count: number,
  ): Promise<readonly ShownRow[]> {
    const ask = (
      statement: string,
      in_: ActivitySpan,
      wanted: number,
      extra?: number | readonly string[],
    ) => {
      const { from, position } = in_
      const values = [...recordValues(filter), from, position.occurredAt, position.id, wanted]
      return query<ShownRow>(statement, extra === undefined ? values : [...values, extra])
    }
    const everything = (statement: string) => ask(statement, span, count)
    const newest = (statement: string, most: number) =>
      ask(statement, span, count, most + 2 * count)
    const inTurn = async (statement: string, keys: readonly string[]) => {
      const [recent, older] = splitAtWeek(span)
      const found = await ask(statement, recent, count, keys)
      if (found.length === count || older === undefined) return found
      return [...found, ...(await ask(statement, older, count - found.length, keys))]
    }

    const { userId, actorId } = filter
    if (filter.requestId !== undefined) return everything(statements.ofRequests)
    const isByShape = shapeValues(filter).some((values) => values !== null)
    const shapes = isByShape ? await query<Shape>(findShapes, shapeValues(filter)) : []
    if (isByShape && shapes.length === 0) return []
    const allUncommon = isByShape && shapes.every(({ uncommon }) => uncommon)
    const kinds = [...new Set(shapes.map(({ kind }) => kind))]

    if (userId !== undefined) {
      if (actorId !== undefined && !(await haveMore(actorId, rowsWalkedApart))) {
        return everything(statements.ofActors)
      }
      if (!allUncommon || kinds.length > mostKeysSought) return everything(statements.ofPeople)
      return inTurn(statements.ofPeopleUncommon, kinds)
    }
    if (!isByShape) return everything(actorId === undefined ? statements.all : statements.ofActors)

    const isByKind = allUncommon && filter.upstream === undefined && filter.issuer === undefined
    const keys = isByKind ? kinds : shapes.map(({ shape }) => shape)
    const byKey = isByKind ? statements.ofKinds : statements.ofShapes
    const isMany = keys.length > mostKeysAtOnce
    // What is frequent among the uncommon is found here already, whoever acted.
    if (isByKind || (isMany && actorId === undefined)) {
      const statement = allUncommon ? statements.newestUncommon : statements.newest
      const found = await newest(
        statement,
        isMany && actorId === undefined ? rowsWalkedTogether : rowsWalkedBeforeKinds,
      )
      if (found.length === count) return found
    }
    if (actorId !== undefined) {
      const found = await newest(statements.newestOfActors, rowsWalkedApart)
      if (found.length === count || !(await haveMore(actorId, rowsWalkedApart))) return found
      // Many keys that are not uncommon are much of the log, and some of it this actor's.
      if (isMany && !allUncommon) return everything(statements.ofActors)
    }
    if (keys.length <= mostKeysSought) return inTurn(byKey, keys)
    if (actorId !== undefined) return everything(statements.ofActors)
    return everything(allUncommon ? statements.uncommon : statements.all)

    /** Whether these have more than some records. */
    async function haveMore(actors: readonly string[], most: number): Promise<boolean> {
      const { from, position } = span
      const values = [actors, from, position.occurredAt, most]
      const [row] = await query<{ more: boolean }>(countOfActors, values)
      return row?.more === true
    }
  }

  async function findIn(id: string, from: string, to: string): Promise<ActivityRecord | undefined> {
    const [row] = await query<RecordRow>(findRecord, [id, from, to])
    return row === undefined ? undefined : recordOfRow(row)
  }
}

const findShapes = `
  SELECT shape::text AS shape, ${kindOfRecord}::text AS kind, ${isUncommon} AS uncommon FROM activity_shape WHERE ${shapeMatches}`

const countOfActors = `
  SELECT EXISTS (
    SELECT FROM unnest($1::text[]) AS actor CROSS JOIN LATERAL (
      SELECT FROM activity WHERE actor_id = actor AND occurred_at >= $2::timestamptz AND occurred_at <= $3::timestamptz
      ${newestFirst} OFFSET $4::bigint LIMIT 1
    ) AS one_more
  ) AS more`

const findRecord = `
  SELECT ${recordColumns} FROM activity
  WHERE id = $1::uuid AND occurred_at >= $2::timestamptz AND occurred_at <= $3::timestamptz LIMIT 1`

/** Nothing twice in a list, where each value is looked for by itself. */
function unique(filter: ActivityFilter): ActivityFilter {
  const once = (values: readonly string[] | undefined) =>
    values === undefined ? undefined : [...new Set(values)]
  const requests = filter.requestId?.map((id) => id.toLowerCase())
  return {
    ...filter,
    userId: once(filter.userId),
    actorId: once(filter.actorId),
    requestId: once(requests),
  }
}

/**
 * Most answers come from the week that a page begins in, and a search for many shapes touches each week as often. Where that
 * week is only decides how long it takes.
 */
function splitAtWeek(span: ActivitySpan): readonly [ActivitySpan, ActivitySpan | undefined] {
  const begins = Date.parse(span.position.occurredAt)
  const now = Date.now()
  const week = weekOf(Number.isNaN(begins) ? now : Math.min(begins, now))
  const from = exactly(week)
  if (span.from !== '-infinity' && span.from >= from) return [span, undefined]
  return [
    { from, position: span.position },
    { from: span.from, position: before(week) },
  ]
}

function at(instantMs: number): string {
  return new Date(Math.min(Math.max(instantMs, 0), lastInstantMs)).toISOString()
}
