/** When a UUIDv7 (RFC 9562 §5.7) was made, in milliseconds, which it begins with; undefined for an id of another version. */
export function uuidTimeMs(id: string): number | undefined {
  const hex = id.replaceAll('-', '')
  return hex[12] === '7' ? Number.parseInt(hex.slice(0, 12), 16) : undefined
}
