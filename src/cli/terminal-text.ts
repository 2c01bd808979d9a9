/*
 * Text of others on the way to a terminal. Escape sequences could repaint it or forge lines, and bidirectional controls could
 * make one name look like another.
 */

const unsafe = /[\p{Cc}\p{Cs}\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/gu

/** With control characters shown as `\u001b`. */
export function printable(text: string): string {
  return text.replaceAll(unsafe, escaped)
}

/** JSON that is safe to print: the same value, other bytes. */
export function printableJson(value: unknown, indent = 2): string {
  // JSON itself escapes C0 controls only. The line breaks of its own layout stay.
  return JSON.stringify(value, undefined, indent).replaceAll(unsafe, (character) =>
    character === '\n' ? character : escaped(character),
  )
}

function escaped(character: string): string {
  const code = character.codePointAt(0) ?? 0
  return `\\u${code.toString(16).padStart(4, '0')}`
}

/**
 * Columns as wide as their widest cell; the last one is not padded. Where the terminal has fewer `columns` than that takes, cells are
 * cut, those of the widest column first, and never those of `whole`.
 */
export function renderTable(
  head: readonly string[],
  rows: readonly (readonly (string | null)[])[],
  fit: { readonly columns?: number | undefined; readonly whole?: readonly string[] } = {},
): string {
  const lines = [head, ...rows].map((row) => row.map((cell) => printable(cell ?? '-')))
  const widths = head.map((_, column) =>
    Math.max(...lines.map((line) => Array.from(line[column] ?? '').length)),
  )
  if (fit.columns !== undefined) narrow(widths, head, fit.columns, fit.whole ?? [])
  return lines.map((line) => `${renderLine(line.map(cutTo(widths)), widths)}\n`).join('')
}

const narrowest = 6
const gap = 2

function narrow(
  widths: number[],
  head: readonly string[],
  columns: number,
  whole: readonly string[],
): void {
  const cuttable = head.flatMap((name, column) => (whole.includes(name) ? [] : [column]))
  const sum = () => widths.reduce((total, width) => total + width + gap, -gap)
  while (sum() > columns) {
    const widest = cuttable.toSorted((a, b) => (widths[b] ?? 0) - (widths[a] ?? 0))[0]
    if (widest === undefined || (widths[widest] ?? 0) <= narrowest) return
    widths[widest] = (widths[widest] ?? 0) - 1
  }
}

function cutTo(widths: readonly number[]): (cell: string, column: number) => string {
  return (cell, column) => {
    const width = widths[column] ?? 0
    const characters = Array.from(cell)
    return characters.length <= width ? cell : `${characters.slice(0, width - 1).join('')}…`
  }
}

function renderLine(cells: readonly string[], widths: readonly number[]): string {
  return cells
    .map((cell, column) => {
      const missing = (widths[column] ?? 0) - Array.from(cell).length
      return column === cells.length - 1 ? cell : cell + ' '.repeat(missing)
    })
    .join('  ')
    .trimEnd()
}

/** RFC 4180. A cell that a spreadsheet would take for a formula gets a leading apostrophe. */
export function renderCsv(rows: readonly (readonly (string | null)[])[]): string {
  return rows.map((row) => `${row.map(csvCell).join(',')}\r\n`).join('')
}

function csvCell(value: string | null): string {
  const text = value ?? ''
  const harmless = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text
  const safe = printable(harmless)
  return /[",]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe
}
