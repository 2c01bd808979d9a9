import type { Sql } from './connections.ts'
import type { ServerPause } from '../core/setback.ts'

/** A statement, or a part of one, that keeps everybody from asking a server for so long; a longer pause stays. */
export function pauseServer(sql: Sql, { authorizationServer, seconds }: ServerPause) {
  return sql`
    INSERT INTO token_endpoint_pause (authorization_server, paused_until)
    VALUES (${authorizationServer}, now() + make_interval(secs => ${seconds}))
    ON CONFLICT (authorization_server) DO UPDATE
      SET paused_until = greatest(token_endpoint_pause.paused_until, excluded.paused_until)`
}
