import { randomUUID } from 'node:crypto'
import { performance } from 'node:perf_hooks'
import type { Clock } from '../core/ports/clock.ts'
import type { Notices } from '../core/ports/notices.ts'
import type { ReplicaMemory, Replicas } from '../core/ports/replicas.ts'
import { waitAtMost } from '../core/wait-at-most.ts'
import type { Sql } from './connections.ts'
import type { Beat, Database } from './database.ts'
import { createDatabaseClock } from './database-clock.ts'
import { notify } from './notice-channel.ts'

/** This process among the replicas, as its storage knows it. */
export type Replica = Replicas & {
  /** The database's, by which replicas agree. */
  readonly clock: Clock
  /** The heartbeat to open the databases with. It only asks whether they are there until this process has joined. */
  readonly beat: Beat
  /**
   * Counts as a replica from here on: nothing was served from memory before. After `keeps`.
   * @throws BrokerError storage_unavailable
   */
  join(databases: { readonly calls: Database; readonly notices: Notices }): Promise<void>
  /** Leaves nobody waiting for it. After the last call. */
  leave(): Promise<void>
}

/** Promised to operators: a replica that cannot hear of a disconnect serves nothing from memory after this (docs/security.md). */
const defaultFreshForMs = 10_000
const beatsWhileFresh = 10
/** Two clocks never run quite alike: this process stops a little before the others stop waiting for it. */
const ownShare = 0.99
/** As a share of the time for which it counts as fresh: the database was away where it was not heard from for longer. */
const awayShare = 0.5
/** How often those that are waited for are looked at, where notices do not come. */
const lookEveryMs = 150
/** How long who leaves waits for its own beat. One that takes longer met a database that is away. */
const longestBeatMs = 2000

type News = {
  present: boolean
  now: Date
  id: number | null
  issuer: string | null
  user_id: string | null
  upstream: string | null
  readonly ended: boolean | null
  cut_at: Date | null
  returned_at: Date | null
}

type CutOffRow = { issuer: string; user_id: string; cut_at: Date; returned_at: Date | null }

/** Someone who waits for all replicas. `upTo` is what they must have seen, once that was asked for. */
type Waiting = { upTo: number | undefined; readonly giveUpAt: number; readonly done: () => void }

/**
 * One row a process, one statement a beat: it says that this process was heard and what it has seen, and brings what is new, which
 * is forgotten before the next beat says that it was seen. A process counts as fresh from when such a beat was sent, so that every
 * invalidation of before was in its answer.
 *
 * Those who wait give up a replica that was not heard from for as long as it may serve from memory, by removing its row: a beat of
 * it that is under way at that moment is waited for by the row's lock, and one that comes later finds no row, whereupon it forgets
 * everything and joins anew.
 */
export function createReplica(options: { readonly freshForMs?: number } = {}): Replica {
  const freshForMs = options.freshForMs ?? defaultFreshForMs
  const ownFreshForMs = freshForMs * ownShare
  const id = randomUUID()
  const clock = createDatabaseClock()
  const waiting = new Set<Waiting>()
  let state: 'outside' | 'joined' | 'left' = 'outside'
  let memory: ReplicaMemory | undefined
  let database: Database | undefined
  let beatNow = () => {}
  /** The last beat, however it ends. */
  let underWay = Promise.resolve()
  let seen = 0
  let acknowledged = 0
  let heard: Moment | undefined
  let lastHeardMs: number | undefined
  let cameBackMs: number | undefined
  let lookAgain = false
  let wake = () => {}

  function ask(sql: Sql): Promise<'again' | 'later'> {
    const beat = beatOnce(sql)
    underWay = beat.then(
      () => {},
      () => {},
    )
    return beat
  }

  async function beatOnce(sql: Sql): Promise<'again' | 'later'> {
    const sent = now()
    if (state !== 'joined') {
      const [told] = await sql<[{ now: Date }]>`SELECT now() AS now`
      clock.heard({ sentAtMs: sent.monotonicMs, now: told.now })
      return 'later'
    }
    const said = seen
    const isNews = said > acknowledged
    const rows = await sql<News[]>`
      WITH beat AS (
        UPDATE replica SET heard_at = now(), seen = ${said} WHERE id = ${id} RETURNING id
      ),
      told AS (SELECT ${notify(sql, 'replica', 'caught_up')} FROM beat WHERE ${isNews}::boolean),
      news AS (
        SELECT invalidation.id, invalidation.issuer, invalidation.user_id, invalidation.upstream,
          invalidation.ended, cut_off.cut_at, cut_off.returned_at
        FROM invalidation
        LEFT JOIN cut_off ON invalidation.upstream IS NULL
          AND cut_off.issuer = invalidation.issuer AND cut_off.user_id = invalidation.user_id
        WHERE invalidation.id > ${said}
      )
      SELECT beat.id IS NOT NULL AND (SELECT count(*) FROM told) >= 0 AS present, now() AS now, news.*
      FROM (SELECT 1) AS one LEFT JOIN beat ON true LEFT JOIN news ON true
      ORDER BY news.id`
    if (rows[0] !== undefined) {
      clock.heard({ sentAtMs: sent.monotonicMs, now: rows[0].now })
    }
    if (rows[0]?.present !== true) {
      // Nobody takes care of the row of a replica that has left: every disconnect elsewhere would wait for it.
      if (hasLeft()) return 'later'
      await enter(sql)
      return 'later'
    }
    acknowledged = Math.max(acknowledged, said)
    for (const row of rows) learn(row)
    heardAt(sent)
    // At once, because somebody waits for it.
    return seen > acknowledged ? 'again' : 'later'
  }

  function learn({ id: latest, issuer, user_id: userId, upstream, ended, ...cut }: News): void {
    if (latest === null || issuer === null || userId === null) return
    const person = { issuer, userId }
    if (ended === true) memory?.end(person, upstream ?? undefined)
    else memory?.forget(person, upstream ?? undefined)
    if (cut.cut_at !== null) {
      memory?.cutOff(person, { cutAt: cut.cut_at, returned: cut.returned_at !== null })
    }
    seen = Math.max(seen, latest)
  }

  /** The first time, and whenever the others have given this process up. */
  async function enter(sql: Sql): Promise<void> {
    heard = undefined
    const sent = now()
    const [row] = await sql<[{ seen: number }]>`
      INSERT INTO replica (id, started_at, heard_at, seen)
      SELECT ${id}, now(), now(), last FROM invalidation_counter
      ON CONFLICT (id) DO UPDATE SET heard_at = now(), seen = excluded.seen
      RETURNING seen`
    // Not before: what is read from here on was read after everything up to `seen` was changed.
    memory?.forgetAll()
    const cutOffs = await sql<CutOffRow[]>`SELECT issuer, user_id, cut_at, returned_at FROM cut_off`
    for (const { issuer, user_id: userId, cut_at: cutAt, returned_at: returnedAt } of cutOffs) {
      memory?.cutOff({ issuer, userId }, { cutAt, returned: returnedAt !== null })
    }
    seen = Math.max(seen, row.seen)
    acknowledged = Math.max(acknowledged, row.seen)
    heardAt(sent)
  }

  const hasLeft = () => state === 'left'

  function heardAt(sent: Moment): void {
    if (hasLeft()) return
    if (isSilentAt(sent.monotonicMs)) cameBackMs = performance.now()
    lastHeardMs = Math.max(sent.monotonicMs, lastHeardMs ?? 0)
    if (heard === undefined || sent.monotonicMs > heard.monotonicMs) heard = sent
  }

  function isSilentAt(ms: number): boolean {
    return lastHeardMs !== undefined && ms - lastHeardMs > freshForMs * awayShare
  }

  /** Looks at the others, again and again, for as long as anybody waits. */
  async function lookAtOthers(): Promise<void> {
    while (waiting.size > 0) {
      lookAgain = false
      const asked = [...waiting]
      const soonest = Math.min(...asked.map(({ giveUpAt }) => giveUpAt))
      const looked = await waitAtMost(seenByOthers(), Math.max(0, soonest - performance.now()))
      const outcome = looked === 'late' ? undefined : looked
      for (const one of asked) {
        if (outcome !== undefined) one.upTo ??= outcome.last
        const caughtUp = outcome !== undefined && (outcome.seen ?? outcome.last) >= (one.upTo ?? 0)
        if (caughtUp || performance.now() >= one.giveUpAt) {
          waiting.delete(one)
          one.done()
        }
      }
      if (waiting.size > 0 && !lookAgain) await pauseBetweenLooks()
    }
  }

  async function pauseBetweenLooks(): Promise<void> {
    const soonest = Math.min(...[...waiting].map(({ giveUpAt }) => giveUpAt))
    const leftMs = Math.max(1, soonest - performance.now())
    await new Promise<void>((resolve) => {
      wake = resolve
      setTimeout(resolve, Math.min(lookEveryMs, leftMs))
    })
  }

  /** The latest invalidation, and up to which one all the others have seen them; undefined while the database cannot say. */
  async function seenByOthers(): Promise<
    { readonly last: number; readonly seen: number | null } | undefined
  > {
    if (database === undefined) return undefined
    const { run, sql } = database
    try {
      const [row] = await run(
        () => sql<[{ last: number; seen: number | null }]>`
          WITH given_up AS (
            DELETE FROM replica USING invalidation_counter
            WHERE replica.id <> ${id} AND replica.seen < invalidation_counter.last
              AND replica.heard_at <= now() - make_interval(secs => ${freshForMs / 1000})
            RETURNING replica.id
          )
          SELECT last, (
            SELECT min(seen) FROM replica WHERE id <> ${id} AND id NOT IN (SELECT id FROM given_up)
          ) AS seen
          FROM invalidation_counter`,
      )
      return row
    } catch {
      // The change is made; whoever cannot be asked is waited out.
      return undefined
    }
  }

  function lookNow(): void {
    lookAgain = true
    wake()
  }

  return {
    clock,
    isFresh() {
      if (heard === undefined) return false
      // The first does not count while the machine sleeps, the second can be set back.
      const elapsedMs = performance.now() - heard.monotonicMs
      const elapsedByWallMs = Date.now() - heard.wallMs
      return elapsedMs <= ownFreshForMs && elapsedByWallMs <= ownFreshForMs && elapsedByWallMs >= 0
    },

    wasAway(withinMs) {
      const nowMs = performance.now()
      // A statement may find it before the beat does.
      return isSilentAt(nowMs) || (cameBackMs !== undefined && nowMs - cameBackMs <= withinMs)
    },

    keeps(keeper) {
      memory = keeper
    },

    caughtUp() {
      // What was read before the change ends with the freshness of the beat that was sent before it.
      const giveUpAt = performance.now() + freshForMs
      return new Promise((resolve) => {
        const isFirst = waiting.size === 0
        waiting.add({ upTo: undefined, giveUpAt, done: resolve })
        if (isFirst) void lookAtOthers()
        else lookNow()
      })
    },

    beat: {
      everyMs: freshForMs / beatsWhileFresh,
      ask,
      onStart(askNow) {
        beatNow = askNow
      },
    },

    async join({ calls, notices }) {
      database = calls
      await calls.run(() => enter(calls.sql))
      state = 'joined'
      notices.on('invalidation', () => beatNow())
      notices.on('replica', () => lookNow())
      notices.onGap(() => {
        beatNow()
        lookNow()
      })
      beatNow()
    },

    async leave() {
      const wasIn = state === 'joined'
      state = 'left'
      heard = undefined
      if (!wasIn || database === undefined) return
      const { run, sql } = database
      // A beat that finds the row gone puts it there again.
      await waitAtMost(underWay, longestBeatMs)
      // A database that is gone must not keep a process from stopping: the others give it up.
      await run(() => sql`DELETE FROM replica WHERE id = ${id}`).catch(() => {})
    },
  }
}

type Moment = { readonly monotonicMs: number; readonly wallMs: number }

function now(): Moment {
  return { monotonicMs: performance.now(), wallMs: Date.now() }
}
