const barWidth = 30
const redrawMs = 100

/** Draws how far something has come, over itself, for whoever watches; `total` may be unknown. */
export function progressBar(
  write: (text: string) => void,
): (done: number, total: number | undefined) => void {
  let drawnAt = 0
  return (done, total) => {
    const now = Date.now()
    if (now - drawnAt < redrawMs) return
    drawnAt = now
    if (total === undefined) {
      write(`\r${done} records`)
      return
    }
    const share = total === 0 ? 1 : Math.min(1, done / total)
    const filled = Math.round(share * barWidth)
    const bar = '#'.repeat(filled) + '-'.repeat(barWidth - filled)
    write(`\r[${bar}] ${String(Math.floor(share * 100)).padStart(3)}%  ${done} of ${total} records`)
  }
}

/** Takes the bar away again. */
export const clearLine = '\r\u001b[K'
