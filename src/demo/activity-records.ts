import { z } from 'zod'

const record = z.object({
  id: z.string(),
  occurred_at: z.string(),
  user_id: z.string().nullable(),
  actor: z.object({ kind: z.string(), id: z.string() }),
  upstream: z.string().nullable(),
  action: z.string(),
  outcome: z.string(),
  reason: z.string().nullable(),
})

const page = z.object({ items: z.array(record), next_cursor: z.string().nullable() })

export type ActivityRecord = z.infer<typeof record>

/** Reads the newest records as an admin does. Gives the text of the answer too, to be looked through for secrets. */
export async function readActivity(options: {
  readonly brokerUrl: string
  readonly bearer: string
}): Promise<{ readonly records: readonly ActivityRecord[]; readonly text: string }> {
  const answer = await fetch(`${options.brokerUrl}/api/v1/activity?limit=1000`, {
    headers: { authorization: `Bearer ${options.bearer}` },
  })
  const text = await answer.text()
  if (!answer.ok) throw new Error(`the activity log answers ${answer.status}`)
  const body: unknown = JSON.parse(text)
  return { records: page.parse(body).items, text }
}

/** Oldest first, equal neighbours in one line. */
export function renderActivityTable(newestFirst: readonly ActivityRecord[]): readonly string[] {
  const rows = newestFirst
    .toReversed()
    .map((one) => [
      one.occurred_at.slice(11, 19),
      one.user_id ?? '–',
      one.upstream ?? '–',
      one.action,
      one.reason === null ? one.outcome : `${one.outcome} (${one.reason})`,
      one.actor.kind === 'user' ? 'the person' : `${one.actor.kind} ${one.actor.id}`,
    ])
  const merged: { readonly cells: readonly string[]; times: number }[] = []
  for (const cells of rows) {
    const last = merged.at(-1)
    if (last !== undefined && sameBesidesTime(last.cells, cells)) last.times += 1
    else merged.push({ cells, times: 1 })
  }
  const header = ['time', 'whose', 'upstream', 'action', 'outcome', 'by']
  const table = [
    header,
    ...merged.map(({ cells, times }) => [...cells.slice(0, 5), withTimes(cells[5] ?? '', times)]),
  ]
  const widths = header.map((_, column) =>
    Math.max(...table.map((cells) => cells[column]?.length ?? 0)),
  )
  return table.map((cells) =>
    cells
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  )
}

function sameBesidesTime(a: readonly string[], b: readonly string[]): boolean {
  return a.slice(1).join('\n') === b.slice(1).join('\n')
}

function withTimes(cell: string, times: number): string {
  return times === 1 ? cell : `${cell}  ×${times}`
}
