import {
  auditActions,
  auditMethods,
  auditOutcomes,
  auditReasons,
  auditTypes,
} from '../core/audit-event.ts'
import { UsageError } from './cli-error.ts'
import type { CommandOption, ParsedOptions } from './command.ts'
import { readChoice } from './output-format.ts'

const anyOf = 'Repeat or separate with commas for any of several.'

export const filterOptions: Readonly<Record<string, CommandOption>> = {
  type: { value: 'TYPE', repeatable: true, summary: `${auditTypes.join(', ')}. ${anyOf}` },
  'user-id': { value: 'ID', repeatable: true, summary: 'The person.' },
  issuer: { value: 'URL', repeatable: true, summary: 'The issuer of the person.' },
  upstream: { value: 'NAME', repeatable: true, summary: 'The upstream.' },
  action: { value: 'ACTION', repeatable: true, summary: `${auditActions.join(', ')}.` },
  method: { value: 'METHOD', repeatable: true, summary: `${auditMethods.join(', ')}.` },
  outcome: { value: 'OUTCOME', repeatable: true, summary: `${auditOutcomes.join(', ')}.` },
  reason: { value: 'REASON', repeatable: true, summary: 'Why it failed, such as not_connected.' },
  'request-id': { value: 'UUID', repeatable: true, summary: 'The request.' },
  'actor-id': { value: 'ID', repeatable: true, summary: 'Who acted: a person or a service.' },
  since: { value: 'TIME', summary: 'From this date or RFC 3339 time on.' },
  until: { value: 'TIME', summary: 'Before this date or RFC 3339 time.' },
}

const closedSets: Readonly<Record<string, readonly string[]>> = {
  type: auditTypes,
  action: auditActions,
  method: auditMethods,
  outcome: auditOutcomes,
  reason: auditReasons,
}

/** The query of the filters that were written. What cannot be right is refused here, before anything is sent. @throws UsageError */
export function filterQuery(options: ParsedOptions): URLSearchParams {
  const query = new URLSearchParams()
  for (const [name, { repeatable }] of Object.entries(filterOptions)) {
    if (repeatable !== true) continue
    for (const value of options.values(name).flatMap((written) => splitValues(name, written))) {
      query.append(name.replaceAll('-', '_'), value)
    }
  }
  const since = readTime(options, 'since')
  const until = readTime(options, 'until')
  if (since !== undefined && until !== undefined && Date.parse(since) >= Date.parse(until)) {
    throw new UsageError('--since must be before --until.')
  }
  if (since !== undefined) query.set('since', since)
  if (until !== undefined) query.set('until', until)
  return query
}

function splitValues(name: string, written: string): string[] {
  const values = written.split(',')
  const choices = closedSets[name]
  for (const value of values) {
    if (value === '') throw new UsageError(`--${name} has an empty value.`)
    if (choices !== undefined) readChoice(`--${name}`, value, choices)
    if (name === 'request-id' && !isUuid(value))
      throw new UsageError('--request-id must be a UUID.')
  }
  return values
}

export function isUuid(value: string): boolean {
  return /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(value)
}

const time = /^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2}))?$/

function readTime(options: ParsedOptions, name: string): string | undefined {
  const value = options.value(name)
  if (value === undefined) return undefined
  const day = value.slice(0, 10)
  // The date parser takes 31 April for 1 May.
  const isDay =
    time.test(value) &&
    !Number.isNaN(Date.parse(value)) &&
    new Date(`${day}T00:00:00Z`).toISOString().startsWith(day)
  if (isDay) return value
  throw new UsageError(
    `--${name} must be a date or an RFC 3339 time, such as 2026-03-01 or 2026-03-01T09:00:00Z.`,
  )
}
