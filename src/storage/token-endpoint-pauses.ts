import type { Sql } from './connections.ts'
import { textArray } from './text-array.ts'
import type { ServerPause } from '../core/setback.ts'

/** A statement, or a part of one, that keeps everybody from asking a server for so long; a longer pause stays. */
export function pauseServer(sql: Sql, { authorizationServers, seconds }: ServerPause) {
  return sql`
    INSERT INTO token_endpoint_pause (authorization_server, paused_until)
    SELECT authorization_server, now() + make_interval(secs => ${seconds})
    FROM unnest(${textArray(sql, authorizationServers)}) AS authorization_server
    -- In one order, so that two of them never wait for each other.
    ORDER BY authorization_server
    ON CONFLICT (authorization_server) DO UPDATE
      SET paused_until = greatest(token_endpoint_pause.paused_until, excluded.paused_until)`
}
