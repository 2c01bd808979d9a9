import { customType, timestamp } from 'drizzle-orm/pg-core'

export const bytea = customType<{ data: Buffer; driverData: Buffer }>({ dataType: () => 'bytea' })

/** A transaction's number that never wraps around, as text: only the database compares it. */
export const transactionId = customType<{ data: string }>({ dataType: () => 'xid8' })

/** A point in time; kept with time zone, read as a Date. */
export const instant = (name: string) => timestamp(name, { withTimezone: true })
