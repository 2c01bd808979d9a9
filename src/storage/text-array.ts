import type { Sql } from './connections.ts'

/** PostgreSQL's number of the type. */
const text = 25

/** Texts as one value; undefined is null. */
export function textArray(sql: Sql, values: readonly (string | undefined)[]) {
  const elements = values.map((value) => value ?? null)
  return sql`${sql.array(elements, text)}::text[]`
}
