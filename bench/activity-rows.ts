import type postgres from 'postgres'

/*
 * A log of 90 days as a broker writes it, made by the server itself: 20,000 people of whom some call a hundred times as often as
 * others, twelve upstreams, two issuers, two services; nearly all of it successful uses of stored credentials.
 */

const DAYS = 90

/** Fills an empty, migrated database. Indexes are built afterwards, which takes a third of the time. */
export async function fillActivity(sql: postgres.Sql, rows: number): Promise<void> {
  await makeWeeks(sql)
  const indexes = await sql<{ name: string; definition: string }[]>`
    select indexname as name, indexdef as definition from pg_indexes
    where tablename = 'activity' and indexname not like '%_pk'`
  for (const { name } of indexes) await sql.unsafe(`drop index ${name}`)
  await sql`alter table activity disable trigger user`
  const parts = Math.max(1, Math.ceil(rows / 1_000_000))
  const each = Math.ceil(rows / parts)
  for (let part = 0; part < parts; part += 1) {
    const from = part * each + 1
    await sql.unsafe(insertRows(from, Math.min(rows, from + each - 1), rows))
  }
  await sql.unsafe("set maintenance_work_mem = '512MB'")
  // pg_indexes says `on only` for the parent, which would leave the weeks without.
  for (const { definition } of indexes) await sql.unsafe(definition.replace(' ON ONLY ', ' ON '))
  await sql`
    insert into activity_shape
    select distinct on (1) activity_shape_of(type, issuer, upstream, action, method, outcome, reason),
      type, issuer, upstream, action, method, outcome, reason from activity`
  await sql`alter table activity enable trigger user`
  await sql.unsafe('vacuum analyze activity')
  await sql.unsafe('analyze activity_shape')
}

async function makeWeeks(sql: postgres.Sql): Promise<void> {
  const weeks = await sql<{ name: string; starts: string; ends: string }[]>`
    select 'activity_' || to_char(starts at time zone 'UTC', 'IYYY"w"IW') as name, starts::text,
      (starts + interval '7 days')::text as ends
    from generate_series(
      date_trunc('week', now() - ${DAYS} * interval '1 day', 'UTC'),
      date_trunc('week', now(), 'UTC') + interval '14 days', interval '7 days') as starts`
  for (const { name, starts, ends } of weeks) {
    await sql.unsafe(
      `create table if not exists ${name} partition of activity for values from ('${starts}') to ('${ends}')`,
    )
  }
}

function insertRows(from: number, to: number, of: number): string {
  return `
    insert into activity (id, occurred_at, request_id, type, user_id, issuer, actor_kind, actor_id, upstream, action, method,
      outcome, reason, duration_ms, details)
    select
      (lpad(to_hex(ms), 12, '0') || '7' || substr(md5(n || 'x'), 1, 3) || '8' || substr(md5(n || 'y'), 1, 15))::uuid,
      to_timestamp(ms / 1000.0), md5((n - (n % 50 = 0)::int) || 'r')::uuid, type, user_id, issuer,
      case when type = 'administration' then 'admin' when reason = 'credential_corrupt' then 'system' when by_service then 'service' else 'user' end,
      case when type = 'administration' then 'user-7' when reason = 'credential_corrupt' then 'system'
        when by_service then case when n % 7 = 0 then 'batch' else 'edge' end else user_id end,
      upstream, action, method, case when reason is null then 'success' else 'failure' end, reason, round((r * 20)::numeric, 3)::float8,
      case when type = 'credential_broker' then '{"identity":"token"}'::jsonb else '{}'::jsonb end
    from (
      select *,
        case when type = 'credential_broker' then 'upstream-' || up end as upstream,
        case when type <> 'credential_broker' then 'unknown'
          else (array['connect','connect','token_exchange','connect','entra_obo','connect','token_exchange','connect','connect','connect','connect','user_key'])[up + 1] end as method,
        case type when 'administration' then 'connection_removed' when 'oauth.mcp.token.issued' then 'acquire'
          when 'oauth.mcp.token.refreshed' then 'refresh' when 'oauth.mcp.token.rejected' then 'inject'
          else case when k < 0.93 then 'inject' when k < 0.96 then 'refresh' when k < 0.985 then 'acquire' when k < 0.9995 then 'connect' else 'disconnect' end end as action,
        case when type = 'oauth.mcp.token.rejected' then 'access_denied' when type <> 'credential_broker' then null
          when n in (${[1, 4, 7].map((tenth) => Math.ceil((of * tenth) / 10)).join(', ')}) then 'credential_corrupt'
          when k between 0.9 and 0.905 then 'policy_denied' when k between 0.93 and 0.9305 then 'refresh_failed'
          when k between 0.9305 and 0.931 then 'upstream_unavailable' when k between 0.96 and 0.9602 then 'consent_required'
          when k between 0.985 and 0.996 then 'not_connected' when k between 0.996 and 0.998 then 'credential_expired'
          when k between 0.998 and 0.9983 then 'authorization_denied' end as reason
      from (
        select *, 'user-' || person as user_id,
          case when person % 33 = 5 then 'https://second.example.com' else 'https://login.example.com' end as issuer,
          (extract(epoch from now()) * 1000)::bigint - ${DAYS} * 86400000::bigint + n * (${DAYS} * 86400000::bigint) / ${of} as ms,
          case when t < 0.993 then 'credential_broker' when t < 0.998 then 'oauth.mcp.token.issued' when t < 0.99997 then 'oauth.mcp.token.refreshed'
            when t < 0.99999 then 'oauth.mcp.token.rejected' else 'administration' end as type,
          floor(12 * power(u, 2))::int as up, s < 0.6 as by_service
        from (
          select n, floor(20000 * power(random(), 3))::int as person, random() as t, random() as u, random() as k, random() as s, random() as r
          from generate_series(${from}::bigint, ${to}::bigint) as n
        ) as dice
      ) as who
    ) as what`
}
