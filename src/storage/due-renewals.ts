import type { DueRenewals } from '../core/ports/due-renewals.ts'
import type { Database } from './database.ts'
import { isOwn } from './own-row.ts'
import { textArray } from './text-array.ts'

type DueRow = {
  issuer: string
  user_id: string
  upstream: string
  generation: number
  due_in_seconds: number
}

/** So long nobody else is given what one replica took; by then it has begun, or died. */
const taken = '30 seconds'
/** What has ended is renewed for so long after its end; beyond, its person has gone on, and the next use will do. */
const overdue = '2 minutes'

export function createDueRenewals(database: Database): DueRenewals {
  const { run, sql } = database
  const texts = (values: readonly (string | undefined)[]) => textArray(sql, values)

  return {
    async take(terms, withinSeconds) {
      const bindings = terms.map(({ binding }) => binding)
      // A row that is held by somebody is being renewed or ended. Taking it moves no column of an index.
      const rows = await run(
        () => sql<DueRow[]>`
          WITH wanted AS (
            SELECT * FROM unnest(
              ${texts(terms.map(({ upstream }) => upstream))},
              ${texts(bindings.map(({ authorizationServer }) => authorizationServer))},
              ${texts(bindings.map(({ clientId }) => clientId))},
              ${texts(bindings.map(({ resource }) => resource))},
              ${sql.array(
                terms.map(({ refreshBeforeSeconds }) => refreshBeforeSeconds),
                701,
              )}::float8[],
              ${sql.array(
                terms.map(({ usesSignInTokens }) => usesSignInTokens),
                16,
              )}::boolean[],
              ${sql.array(
                terms.map(({ limit }) => limit),
                23,
              )}::int[]
            ) AS wanted (
              upstream, authorization_server, client_id, resource, refresh_before, uses_sign_in_tokens, at_most)
            WHERE NOT EXISTS (
              SELECT FROM token_endpoint_pause AS pause
              WHERE pause.authorization_server = wanted.authorization_server AND pause.paused_until > now())
          ), due AS (
            SELECT due.* FROM wanted CROSS JOIN LATERAL (
              SELECT issuer, user_id, upstream, extract(epoch FROM greatest(
                expires_at - make_interval(secs => wanted.refresh_before),
                -- One that came from a refresh is not refreshed early again before half of its life is over.
                CASE WHEN renewed THEN obtained_at + (expires_at - obtained_at) / 2 END
              ) - now())::float8 AS due_in_seconds
              FROM credential
              WHERE credential.upstream = wanted.upstream AND status = 'connected'
                AND expires_at > now() - ${overdue}::interval
                AND expires_at <= now() + make_interval(secs => wanted.refresh_before + ${withinSeconds})
                AND (NOT renewed
                  OR obtained_at + (expires_at - obtained_at) / 2 <= now() + make_interval(secs => ${withinSeconds}))
                AND (ahead_after IS NULL OR ahead_after <= now())
                AND (lease_until IS NULL OR lease_until <= now())
                AND (next_try_at IS NULL OR next_try_at <= now())
                AND credential.authorization_server = wanted.authorization_server
                AND credential.client_id = wanted.client_id
                AND credential.resource IS NOT DISTINCT FROM wanted.resource
                AND (refresh_token IS NOT NULL OR (wanted.uses_sign_in_tokens AND EXISTS (
                  SELECT FROM sign_in_token AS token
                  WHERE token.issuer = credential.issuer AND token.user_id = credential.user_id)))
                AND EXISTS (
                  SELECT FROM last_use AS use
                  WHERE use.issuer = credential.issuer AND use.user_id = credential.user_id
                    AND use.upstream = credential.upstream
                    AND use.last_used_at > now() - greatest(interval '10 minutes', expires_at - obtained_at))
              ORDER BY expires_at LIMIT wanted.at_most FOR UPDATE SKIP LOCKED
            ) AS due
          )
          UPDATE credential SET ahead_after = now() + ${taken}::interval FROM due
          WHERE credential.issuer = due.issuer AND credential.user_id = due.user_id
            AND credential.upstream = due.upstream
          RETURNING credential.issuer, credential.user_id, credential.upstream, credential.generation,
            due.due_in_seconds`,
      )
      return rows.map((row) => ({
        issuer: row.issuer,
        userId: row.user_id,
        upstream: row.upstream,
        generation: row.generation,
        dueInSeconds: row.due_in_seconds,
      }))
    },

    async postpone({ generation, ...key }, seconds) {
      await run(
        () => sql`
          UPDATE credential SET ahead_after = now() + make_interval(secs => ${seconds})
          WHERE ${isOwn(sql, 'credential', key)} AND generation = ${generation}`,
      )
    },
  }
}
