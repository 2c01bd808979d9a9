import { pino } from 'pino'
import { namesOf } from './core/error-names.ts'

/** One line: closed fields only, as the rooms' own log types have them. Errors go in by class and code, never whole. */
export type LogEntry = { readonly event: string } & Readonly<Record<string, unknown>>

export type BrokerLog = {
  readonly info: (entry: LogEntry) => void
  readonly warn: (entry: LogEntry) => void
  readonly error: (entry: LogEntry) => void
}

/** One JSON object a line. */
export function createLog(write: (text: string) => void): BrokerLog {
  const logger = pino(
    {
      base: null,
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: (level) => ({ level }) },
    },
    { write },
  )
  return {
    info: (entry) => logger.info(withoutErrors(entry)),
    warn: (entry) => logger.warn(withoutErrors(entry)),
    error: (entry) => logger.error(withoutErrors(entry)),
  }
}

/**
 * A copy in which every error is its class and code. The rooms' own log types have no place for one; should one get through,
 * then not with what libraries put into messages and properties: addresses, statements, values.
 */
function withoutErrors(value: unknown): unknown {
  if (value instanceof Error) {
    const { errorClass, errorCode } = namesOf(value)
    return { error_class: errorClass, ...(errorCode === undefined ? {} : { code: errorCode }) }
  }
  if (Array.isArray(value)) return value.map(withoutErrors)
  if (!isPlainObject(value)) return value
  return Object.fromEntries(Object.entries(value).map(([name, of]) => [name, withoutErrors(of)]))
}

/** Anything else, such as a Secret, knows itself how it is written. */
function isPlainObject(value: unknown): value is object {
  return (
    typeof value === 'object' && value !== null && Object.getPrototypeOf(value) === Object.prototype
  )
}

export const silentLog: BrokerLog = { info() {}, warn() {}, error() {} }
