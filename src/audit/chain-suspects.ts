/** A row whose hash does not follow from the one before, or whose number another row has. */
export type Suspect = {
  /** Where it stands. */
  readonly seq: number
  /** Stored with it. */
  readonly hash: Buffer
  /** The hash that it was checked against; undefined for the second row of a number. */
  readonly previous: Buffer | undefined
  /** The hash that it would have at that number behind that hash. */
  readonly link: (seq: number, previous: Buffer) => Buffer
}

export type Explained = { readonly kind: 'edited' | 'inserted' | 'reordered'; readonly seq: number }

/**
 * Says what happened to rows that do not fit: which are changed, which came from elsewhere in the chain, which were put in, and
 * which only suffer from the one before. Of one writer.
 */
export function explain(
  suspects: readonly Suspect[],
  doubles: readonly Suspect[],
): readonly Explained[] {
  if (suspects.length + doubles.length === 0) return []
  const rows = [...suspects, ...doubles]
  const hashes = rows.map(({ hash }) => hash)
  /** What the hash at a number was, where a row in its place shows it. */
  const truth = new Map<number, Buffer>()
  /** Rows that are where they belong. */
  const good = new Set<Suspect>()
  /** Where rows that are not belong. */
  const homes = new Map<Suspect, number>()
  const stored = new Map<number, Buffer>()
  for (const { seq, previous } of suspects)
    if (previous !== undefined) stored.set(seq - 1, previous)

  /** The hash before it under which a row at a number has that hash. */
  function origin(row: Suspect, seq: number, candidates: readonly Buffer[]): Buffer | undefined {
    return candidates.find((before) => row.link(seq, before).equals(row.hash))
  }

  // Rows in their own place behind a row that is not, or whose hash alone was changed.
  for (const row of rows) {
    const before = rows.filter(({ seq }) => seq === row.seq - 1)
    const recomputed = before.flatMap((one) =>
      one.previous === undefined ? [] : [one.link(one.seq, one.previous)],
    )
    const usual = stored.get(row.seq - 1)
    const candidates = [...(usual === undefined ? [] : [usual]), ...recomputed, ...hashes]
    const previous = origin(row, row.seq, candidates)
    if (previous === undefined) continue
    good.add(row)
    truth.set(row.seq, row.hash)
    truth.set(row.seq - 1, previous)
  }

  // Rows that brought their hash along: one whose hash is known to belong elsewhere, and then the one that was before it there.
  const waiting = [...truth]
  for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
    const [seq, hash] = next
    for (const row of rows) {
      if (row.seq === seq || good.has(row) || homes.has(row) || !row.hash.equals(hash)) continue
      const usual = stored.get(seq - 1)
      const previous = origin(row, seq, usual === undefined ? hashes : [usual, ...hashes])
      if (previous === undefined) continue
      homes.set(row, seq)
      truth.set(seq - 1, previous)
      waiting.push([seq - 1, previous])
    }
  }

  // Rows whose content changed places, each hash staying with its number; and rows with their hash at an end of the chain.
  const places = new Map(suspects.map((row) => [row.seq, row]))
  const findHome = (row: Suspect): boolean => {
    if (good.has(row) || homes.has(row)) return false
    for (const [seq, there] of places) {
      const previous = truth.get(seq - 1) ?? there.previous
      if (seq === row.seq || previous === undefined) continue
      const link = row.link(seq, previous)
      if (!link.equals(there.hash) && !link.equals(truth.get(seq) ?? row.hash)) continue
      homes.set(row, seq)
      truth.set(seq, link)
      return true
    }
    return false
  }
  // Each one found may show where its neighbour belongs.
  while (rows.some(findHome));

  return [...verdictsOf(suspects, doubles, { good, homes })]
}

function* verdictsOf(
  suspects: readonly Suspect[],
  doubles: readonly Suspect[],
  { good, homes }: { good: ReadonlySet<Suspect>; homes: ReadonlyMap<Suspect, number> },
): Generator<Explained> {
  const doubled = new Map(doubles.map((row) => [row.seq, row]))
  for (const row of suspects) {
    const { seq } = row
    const double = doubled.get(seq)
    // Of two rows with one number, the one that fits is the record.
    if (good.has(row)) continue
    if (double !== undefined && good.has(double)) yield { kind: 'inserted', seq }
    else yield { kind: homes.has(row) ? 'reordered' : 'edited', seq }
  }
  for (const row of doubles) {
    const { seq } = row
    const first = suspects.find((other) => other.seq === seq)
    if (good.has(row) && first !== undefined && !good.has(first)) continue
    yield { kind: 'inserted', seq }
  }
}
