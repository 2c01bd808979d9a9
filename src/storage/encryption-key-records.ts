import type { EncryptionKeyRecords, KeyUsage } from '../core/ports/encryption-key-records.ts'
import type { Database } from './database.ts'
import { sealedColumns } from './sealed-columns.ts'
import { textArray } from './text-array.ts'

/** As many as its length byte can say. */
const maxKeyIdBytes = 255

export function createEncryptionKeyRecords(database: Database): EncryptionKeyRecords {
  const { run, sql } = database

  return {
    async findCheck(id) {
      const [row] = await run(
        () => sql<{ check: Buffer }[]>`SELECT "check" FROM encryption_key WHERE id = ${id}`,
      )
      return row?.check
    },

    async insertCheck(id, check) {
      await run(
        () => sql`
          INSERT INTO encryption_key (id, "check") VALUES (${id}, ${check})
          ON CONFLICT (id) DO NOTHING`,
      )
    },

    async keepChecks(ids) {
      await run(() => sql`DELETE FROM encryption_key WHERE id <> ALL(${textArray(sql, ids)})`)
    },

    async countByKey(head) {
      // Grouped by the key ids of a row together, so that rows and values both come out of one pass. OFFSET 0 keeps the
      // inner query as it is: each value, most of which lie outside of the row, is then fetched once.
      const perTable = Object.entries(sealedColumns).map(
        ([table, columns]) => sql`
          SELECT ARRAY[${listOf(columns.map((column) => keyIdOf(column, head)))}] AS key_ids, count(*) AS rows
          FROM (SELECT ${listOf(columns.map((column) => startOf(column, head)))} FROM ${sql(table)} OFFSET 0) AS starts
          GROUP BY 1`,
      )
      const groups = await run(
        () => sql<{ key_ids: (Buffer | null)[]; rows: number }[]>`
          ${perTable.reduce((all, one) => sql`${all} UNION ALL ${one}`)}`,
      )
      return usageOf(groups)
    },
  }

  function startOf(column: string, head: Uint8Array) {
    const bytes = head.length + 1 + maxKeyIdBytes
    return sql`substring(${sql(column)} FROM 1 FOR ${bytes}) AS ${sql(column)}`
  }

  /** CASE, because get_byte fails on a value that is too short, and one bad row must not keep the broker from starting. */
  function keyIdOf(column: string, head: Uint8Array) {
    const start = sql(column)
    const at = head.length
    return sql`CASE WHEN length(${start}) > ${at} AND substring(${start} FROM 1 FOR ${at}) = ${head}
      THEN substring(${start} FROM ${at + 2} FOR get_byte(${start}, ${at})) END`
  }

  function listOf(fragments: readonly ReturnType<typeof keyIdOf>[]) {
    return fragments.reduce((all, one) => sql`${all}, ${one}`)
  }
}

function usageOf(
  groups: readonly { readonly key_ids: readonly (Buffer | null)[]; readonly rows: number }[],
): readonly KeyUsage[] {
  const usage = new Map<string, { rows: number; values: number }>()
  for (const group of groups) {
    const ids = group.key_ids.filter((id) => id !== null).map((id) => id.toString('utf8'))
    for (const id of ids) {
      const counted = usage.get(id) ?? { rows: 0, values: 0 }
      counted.values += group.rows
      usage.set(id, counted)
    }
    for (const id of new Set(ids)) {
      const counted = usage.get(id)
      if (counted !== undefined) counted.rows += group.rows
    }
  }
  return [...usage]
    .map(([keyId, counted]) => ({ keyId, ...counted }))
    .toSorted((a, b) => (a.keyId < b.keyId ? -1 : 1))
}
