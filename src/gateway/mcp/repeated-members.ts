const quote = 0x22
const comma = 0x2c
const bracket = 0x5b
const backslash = 0x5c
const bracketEnd = 0x5d
const brace = 0x7b
const braceEnd = 0x7d

/** Those of a message, its `params` and its `_meta`, also in a batch: what decides lies no deeper. */
const deepest = 4

/**
 * Whether an object of a JSON text has a member twice. Some parsers take the first one and some the last (RFC 8259 §4), so that the
 * gateway would judge one call and the upstream run another. For a text that was parsed.
 */
export function hasRepeatedMember({ buffer, byteOffset, byteLength }: Uint8Array): boolean {
  const json = Buffer.from(buffer, byteOffset, byteLength)
  /** The names that were seen in what is open, by its depth; of arrays undefined. */
  const seen: (Set<string> | undefined)[] = []
  let depth = 0
  let isBeforeName = false
  for (let at = 0; at < json.length; at += 1) {
    const byte = json[at]
    if (byte === quote) {
      const end = endOfString(json, at)
      if (isBeforeName) {
        const names = seen[depth]
        const name = nameIn(json, at, end)
        if (names?.has(name) === true) return true
        names?.add(name)
        isBeforeName = false
      }
      at = end
    } else if (byte === brace || byte === bracket) {
      depth += 1
      isBeforeName = byte === brace && depth <= deepest
      if (depth <= deepest) seen[depth] = isBeforeName ? new Set() : undefined
    } else if (byte === braceEnd || byte === bracketEnd) {
      depth -= 1
      isBeforeName = false
    } else if (byte === comma) isBeforeName = depth <= deepest && seen[depth] !== undefined
  }
  return false
}

function endOfString(json: Buffer, start: number): number {
  for (let end = json.indexOf(quote, start + 1); end !== -1; end = json.indexOf(quote, end + 1)) {
    let before = end
    while (json[before - 1] === backslash) before -= 1
    if ((end - before) % 2 === 0) return end
  }
  return json.length
}

function nameIn(json: Buffer, start: number, end: number): string {
  const written = json.toString('utf8', start + 1, end)
  return written.includes('\\') ? String(JSON.parse(`"${written}"`)) : written
}
