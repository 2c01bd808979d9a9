import { pino } from 'pino'

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
    info: (entry) => logger.info(entry),
    warn: (entry) => logger.warn(entry),
    error: (entry) => logger.error(entry),
  }
}

export const silentLog: BrokerLog = { info() {}, warn() {}, error() {} }
