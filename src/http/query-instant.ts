const format =
  /^(?<date>\d{4}-\d\d-\d\d)(?:[Tt](?<time>\d\d:\d\d:\d\d)(?<fraction>\.\d{1,9})?(?<zone>[Zz]|[+-]\d\d:\d\d))?$/

/**
 * Reads an instant of RFC 3339, or a date, which is its first moment in UTC. What is finer than a millisecond is rounded up:
 * records have milliseconds, so that `since` and `until` keep their meaning. Undefined for anything else, and for what is not
 * in the calendar.
 */
export function parseQueryInstant(text: string): Date | undefined {
  const found = format.exec(text)?.groups
  const date = found?.['date']
  if (date === undefined || !isDate(date)) return undefined
  const time = found?.['time'] ?? '00:00:00'
  const offsetMinutes = minutesOf(found?.['zone'] ?? 'Z')
  const wholeMs = Date.parse(`${date}T${time}Z`)
  if (offsetMinutes === undefined || Number.isNaN(wholeMs) || time.startsWith('24'))
    return undefined
  const nanoseconds = Number((found?.['fraction'] ?? '.').slice(1).padEnd(9, '0'))
  const fractionMs = Math.ceil(nanoseconds / 1e6)
  const at = new Date(wholeMs + fractionMs - offsetMinutes * 60_000)
  // The database writes years beyond these in another way.
  const year = at.getUTCFullYear()
  return year >= 1 && year <= 9999 ? at : undefined
}

/** `2026-02-30` is read as a day in March otherwise. */
function isDate(date: string): boolean {
  const at = new Date(`${date}T00:00:00Z`)
  return !Number.isNaN(at.getTime()) && at.toISOString().startsWith(date)
}

function minutesOf(zone: string): number | undefined {
  if (zone === 'Z' || zone === 'z') return 0
  const hours = Number(zone.slice(1, 3))
  const minutes = Number(zone.slice(4))
  if (hours > 23 || minutes > 59) return undefined
  return (zone.startsWith('-') ? -1 : 1) * (hours * 60 + minutes)
}
