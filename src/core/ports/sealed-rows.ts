import type { SealingContext } from './sealer.ts'

/**
 * Tables with sealed values. The check values of the keys themselves stay under their own keys. The journal, which is a file, holds
 * its values for moments only, and what goes through an MCP client ends with its ten minutes.
 */
export type SealedTable = Exclude<
  SealingContext['table'],
  'encryption_key' | 'refresh_journal' | 'mcp_request_state'
>

/** The values of a row's primary key. */
export type SealedRowKey = readonly (string | Uint8Array)[]

/** One sealed value and where it stands. */
export type SealedValue = { readonly context: SealingContext; readonly sealed: Uint8Array }

export type SealedRow = { readonly key: SealedRowKey; readonly values: readonly SealedValue[] }

/** New bytes for values of a row. */
export type ResealedRow = {
  readonly key: SealedRowKey
  readonly values: readonly (SealedValue & { readonly resealed: Uint8Array })[]
}

/** Every sealed value of the database, a window of rows at a time. All throw BrokerError storage_unavailable. */
export interface SealedRows {
  readonly tables: readonly SealedTable[]

  /**
   * Looks at the next rows of a table, in the order of its key, and gives those that hold values which do not begin with
   * `head`, with these values. `next` is absent when there are no more rows.
   */
  window(
    table: SealedTable,
    options: { readonly head: Uint8Array; readonly after: SealedRowKey | undefined },
  ): Promise<{ readonly rows: readonly SealedRow[]; readonly next: SealedRowKey | undefined }>

  /**
   * Puts the new bytes in the place of the old, row by row, where each of the row's values is still what it was. A row that
   * somebody is changing at the moment is left alone. One statement; gives how many rows were changed.
   */
  replace(table: SealedTable, rows: readonly ResealedRow[]): Promise<number>
}
