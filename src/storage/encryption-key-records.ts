import type { EncryptionKeyRecords, KeyUsage } from '../core/ports/encryption-key-records.ts'
import type { Database } from './database.ts'
import { sealedColumns } from './sealed-columns.ts'

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

    async countByKey(head) {
      // Grouped by the key ids of a row together, so that rows and values both come out of one pass.
      const perTable = Object.entries(sealedColumns).map(
        ([table, columns]) => sql`
          SELECT ARRAY[${listOf(columns.map((column) => keyIdOf(column, head)))}] AS key_ids, count(*) AS rows
          FROM ${sql(table)} GROUP BY 1`,
      )
      const groups = await run(
        () => sql<{ key_ids: (Buffer | null)[]; rows: number }[]>`
          ${perTable.reduce((all, one) => sql`${all} UNION ALL ${one}`)}`,
      )
      return usageOf(groups)
    },
  }

  /** CASE, because get_byte fails on a value that is too short, and one bad row must not keep the broker from starting. */
  function keyIdOf(column: string, head: Uint8Array) {
    const value = sql(column)
    const at = head.length
    return sql`CASE WHEN length(${value}) > ${at} AND substring(${value} FROM 1 FOR ${at}) = ${head}
      THEN substring(${value} FROM ${at + 2} FOR get_byte(${value}, ${at})) END`
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
