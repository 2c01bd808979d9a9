import type postgres from 'postgres'
import { arrayTypes, parseArray, serializeArray } from './array-codec.ts'

/** drizzle switches off the codecs of dates and JSON for the whole client; raw statements need them. */
export function useNativeTypes(sql: postgres.Sql<{ bigint: number }>): void {
  const { parsers, serializers } = sql.options
  const serializeInstant = (value: unknown) =>
    value instanceof Date ? value.toISOString() : String(value)
  // drizzle hands in JSON as text already.
  const serializeJson = (value: unknown) =>
    typeof value === 'string' ? value : JSON.stringify(value)
  parsers[1184] = (value: string) => new Date(value)
  serializers[1184] = serializeInstant
  serializers[114] = serializeJson
  serializers[3802] = serializeJson

  // Not in the types, and what sql.array() looks its element type up in.
  const { typeArrayMap } = (
    sql.options as unknown as { shared: { typeArrayMap: Record<number, number> } }
  ).shared
  for (const { element, array } of arrayTypes) {
    const parse = parsers[element] ?? String
    const serialize = serializers[element] ?? String
    parsers[array] = (text: string) => parseArray(text, parse)
    serializers[array] = (value) => serializeArray(value, (item) => String(serialize(item)))
    typeArrayMap[element] = array
  }
}
