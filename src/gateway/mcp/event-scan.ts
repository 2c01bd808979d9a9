const lineFeed = 0x0a
const carriageReturn = 0x0d
const colon = 0x3a

/** Where events end in a stream of bytes (HTML standard, "Server-sent events"): at an empty line; comments belong to none. */
export type EventScan = {
  /** Whether no event is half there. */
  readonly isBetween: () => boolean
  /** How many bytes of the next ones reach up to the last place where no event is half there; 0 where there is none. */
  readonly scan: (chunk: Uint8Array) => number
}

export function createEventScan(): EventScan {
  let isInEvent = false
  let line: 'empty' | 'comment' | 'field' = 'empty'
  let isAfterReturn = false

  const isBetween = (): boolean => !isInEvent && line === 'empty'

  return {
    isBetween,
    scan(chunk) {
      let whole = 0
      for (let at = 0; at < chunk.length; at += 1) {
        const byte = chunk[at]
        const endsPair = byte === lineFeed && isAfterReturn
        isAfterReturn = byte === carriageReturn
        if (!endsPair && (byte === lineFeed || byte === carriageReturn)) {
          if (line === 'empty') isInEvent = false
          if (line === 'field') isInEvent = true
          line = 'empty'
        } else if (!endsPair && line === 'empty') {
          line = byte === colon ? 'comment' : 'field'
        }
        if (isBetween()) whole = at + 1
      }
      return whole
    },
  }
}
