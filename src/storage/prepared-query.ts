import type { Database } from './database.ts'

/** Runs a text with its values. @throws as `Database.run` */
export type PreparedQuery = <Row extends object>(
  text: string,
  values: readonly unknown[],
) => Promise<readonly Row[]>

/** Prepared once a connection, for texts that are few: to make a plan takes longer than to run it. */
export function preparedQueryOf({ run, sql }: Pick<Database, 'run' | 'sql'>): PreparedQuery {
  return (text, values) => run(() => sql.unsafe(text, values as string[], { prepare: true }))
}
