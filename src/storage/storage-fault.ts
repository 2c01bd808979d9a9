import { BrokerError, isBrokerError } from '../core/errors.ts'

/**
 * What is kept of a failed statement: its kind, never its text. The errors of drizzle and postgres.js carry the bound
 * parameters and the values of rows in their messages and properties, so neither is passed on.
 */
export class StorageFault extends Error {
  /** SQLSTATE (`57P01`), or the code of the driver or the system (`CONNECTION_CLOSED`, `ECONNREFUSED`). */
  readonly code: string | undefined

  constructor(code: string | undefined, message: string) {
    super(message)
    this.name = 'StorageFault'
    this.code = code
  }
}

export function storageUnavailable(error: unknown): BrokerError {
  return new BrokerError('storage_unavailable', { cause: toStorageFault(error) })
}

export function toStorageFault(error: unknown): StorageFault {
  if (error instanceof StorageFault) return error
  const root = rootOf(error)
  const code = typeof root.code === 'string' ? root.code : undefined
  // Class 42 speaks of our own SQL and schema only; without it a mistake in a statement could not be found.
  const text = code?.startsWith('42') === true ? `: ${root.message}` : ''
  return new StorageFault(code, `${root.name}${code === undefined ? '' : ` ${code}`}${text}`)
}

/** The code of the fault behind what `Database.run` threw; undefined where there is none. */
export function faultCodeOf(error: unknown): string | undefined {
  const fault = isBrokerError(error, 'storage_unavailable') ? error.cause : error
  return fault instanceof StorageFault ? fault.code : undefined
}

/** What the driver threw, without what drizzle put around it. */
export function rootOf(error: unknown): { name: string; message: string; code?: unknown } {
  let current = error
  while (current instanceof Error && current.cause instanceof Error) current = current.cause
  return current instanceof Error ? current : { name: typeof current, message: '' }
}
