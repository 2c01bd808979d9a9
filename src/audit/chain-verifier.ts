import type { ActivityFindingKind, ActivityRow, ChainHead } from '../core/ports/activity-proof.ts'
import { type ChainedRecord, chainHash, genesisHash, lineOfRecord } from './chain.ts'
import { explain, type Suspect } from './chain-suspects.ts'

/** One thing that is wrong: in the records `seq` to `through` of a writer. */
export type Finding = {
  readonly kind: ActivityFindingKind
  readonly writer: string
  readonly seq: number
  readonly through: number
}

/** Records of one writer that follow each other. */
export type Run = { readonly first: number; readonly last: number }

/** Records that were removed rightly, and what the next one's hash goes on from. */
export type RemovedRun = Run & { readonly lastHash: Buffer }

/** What has to be in the log. */
export type ChainExpectations = {
  /** Where the chains stood before the first row was read. */
  readonly heads: readonly ChainHead[]
  /** What signed checkpoints say, in any order. */
  readonly checkpoints: readonly ChainHead[]
  readonly removed: ReadonlyMap<string, readonly RemovedRun[]>
}

/** Checks rows as they come, in any order; those of one writer take the least memory in the order of their numbers. */
export type ChainVerifier = {
  /** `writer` must not be null. */
  add(row: ActivityRow): void
  /** `heads` are read after the last row. Gives what is wrong, by writer and number. */
  finish(heads: readonly ChainHead[]): readonly Finding[]
  /** Writers that are in the log or ought to be. */
  writers(): number
  /** Records whose hash is not known, and is needed to check the one behind. */
  wanted(): readonly { readonly writer: string; readonly seq: number }[]
  /** The hash of one of those. */
  learn(head: ChainHead): void
  /** What is right among the rows that came: runs that follow from each other, with the hash of their last one. */
  soundRuns(): readonly (RemovedRun & { readonly writer: string })[]
}

/** A row that stands in a chain. */
type ChainedRow = ActivityRow & { readonly writer: string; readonly seq: number }

/** Rows that follow each other without a gap; all but the first are checked against the one before. */
type OpenRun = {
  first: number
  /** Not checked yet: the one before it was not seen. */
  firstRow: ChainedRow | undefined
  last: number
  lastHash: Buffer
}

type Chain = {
  runs: OpenRun[]
  /** Hashes that somebody signed, or that the writer's own row has, by number. */
  readonly known: Map<number, Buffer>
  /** Of `known`, those that the log has otherwise. */
  readonly otherwise: Set<number>
  /** The end that has to be there. */
  end: number
  suspects: Suspect[]
  /** Rows with a number that another row has. */
  doubles: Suspect[]
  findings: Finding[]
}

/** What is wrong beyond this is named without looking for where it came from. */
const mostSuspects = 100
/** Beyond this, those that follow each other are one finding: a log that was changed as a whole must not fill the memory. */
const mostSingle = 10_000
const noHash = Buffer.alloc(0)

export function createChainVerifier(expected: ChainExpectations): ChainVerifier {
  const chains = new Map<string, Chain>()
  let suspected = 0

  for (const head of [...expected.heads, ...expected.checkpoints]) {
    const chain = chainOf(head.writer)
    chain.end = Math.max(chain.end, head.seq)
    const known = chain.known.get(head.seq)
    // Two that were signed and disagree: one of them is wrong whatever the log says.
    if (known !== undefined && !known.equals(head.hash)) chain.otherwise.add(head.seq)
    if (head.seq > 0) chain.known.set(head.seq, head.hash)
  }
  for (const [writer, runs] of expected.removed) {
    const chain = chainOf(writer)
    for (const { last } of runs) chain.end = Math.max(chain.end, last)
  }

  function chainOf(writer: string): Chain {
    let chain = chains.get(writer)
    if (chain === undefined) {
      chain = {
        runs: [],
        known: new Map(),
        otherwise: new Set(),
        end: 0,
        suspects: [],
        doubles: [],
        findings: [],
      }
      chains.set(writer, chain)
    }
    return chain
  }

  function add(row: ActivityRow): void {
    const chain = chainOf(row.writer ?? '')
    const seq = row.seq ?? 0
    if (seq < 1) {
      chain.findings.push(findingOf('inserted', row.writer ?? '', seq))
      return
    }
    const chained = { ...row, writer: row.writer ?? '', seq }
    const hash = row.hash ?? noHash
    const known = chain.known.get(seq)
    if (known !== undefined && !known.equals(hash)) chain.otherwise.add(seq)

    const at = runBefore(chain.runs, seq)
    const before = chain.runs[at]
    const after = chain.runs[at + 1]
    if (before !== undefined && seq <= before.last) {
      suspect(chain, chain.doubles, chained, undefined)
      return
    }
    const joinsAfter = after !== undefined && after.first === seq + 1
    if (before !== undefined && before.last === seq - 1) {
      check(chain, chained, before.lastHash)
      before.last = seq
      before.lastHash = hash
      if (!joinsAfter) return
      checkFirst(chain, after, hash)
      before.last = after.last
      before.lastHash = after.lastHash
      chain.runs.splice(at + 1, 1)
      return
    }
    const previous = hashBefore(chain, row.writer ?? '', seq)
    if (previous !== undefined) check(chain, chained, previous)
    const firstRow = previous === undefined ? chained : undefined
    if (joinsAfter) {
      checkFirst(chain, after, hash)
      after.first = seq
      after.firstRow = firstRow
    } else {
      chain.runs.splice(at + 1, 0, { first: seq, firstRow, last: seq, lastHash: hash })
    }
  }

  /** What is known of the record before without having seen it. */
  function hashBefore(chain: Chain, writer: string, seq: number): Buffer | undefined {
    if (seq === 1) return genesisHash
    const removed = expected.removed.get(writer)?.find(({ last }) => last === seq - 1)
    return removed?.lastHash ?? chain.known.get(seq - 1)
  }

  function checkFirst(chain: Chain, run: OpenRun, previous: Buffer): void {
    if (run.firstRow !== undefined) check(chain, run.firstRow, previous)
    run.firstRow = undefined
  }

  function check(chain: Chain, row: ChainedRow, previous: Buffer): void {
    if (linkOf(row, row.seq, previous).equals(row.hash ?? noHash)) return
    suspect(chain, chain.suspects, row, previous)
  }

  function suspect(
    chain: Chain,
    list: Suspect[],
    row: ChainedRow,
    previous: Buffer | undefined,
  ): void {
    suspected += 1
    if (suspected > mostSuspects) {
      const kind = list === chain.doubles ? 'inserted' : 'edited'
      const last = suspected > mostSingle ? chain.findings.at(-1) : undefined
      const follows = last?.kind === kind && last.through === row.seq - 1
      if (follows) chain.findings.pop()
      chain.findings.push({
        ...findingOf(kind, row.writer, follows ? last.seq : row.seq),
        through: row.seq,
      })
      return
    }
    const hash = row.hash ?? noHash
    const link = (seq: number, before: Buffer) => linkOf(row, seq, before)
    list.push({ seq: row.seq, hash, previous, link })
  }

  function finish(heads: readonly ChainHead[]): readonly Finding[] {
    const ends = new Map(heads.map(({ writer, seq }) => [writer, seq]))
    return [...chains]
      .toSorted(([one], [other]) => (one < other ? -1 : 1))
      .flatMap(([writer, chain]) => judge(writer, chain, ends.get(writer) ?? 0))
  }

  function judge(writer: string, chain: Chain, endNow: number): readonly Finding[] {
    const removed = expected.removed.get(writer) ?? []
    // Further records may have come while the log was read, but none that the writer's own row does not count.
    const end = Math.max(chain.end, endNow)
    const found = chain.findings.filter(({ seq }) => seq <= end)
    for (const run of chain.runs) {
      if (run.last > end)
        found.push({
          ...findingOf('inserted', writer, Math.max(run.first, end + 1)),
          through: run.last,
        })
    }
    const within = ({ seq }: Suspect) => seq <= end
    for (const { kind, seq } of explain(
      chain.suspects.filter(within),
      chain.doubles.filter(within),
    )) {
      found.push(findingOf(kind, writer, seq))
    }
    found.push(...recomputed(writer, chain, found, removed))
    found.push(...missing(writer, chain, removed))
    return found.toSorted((one, other) => one.seq - other.seq)
  }

  /** The log agrees with itself, but not with what was signed: everything from some record on was made anew. */
  function recomputed(
    writer: string,
    chain: Chain,
    found: readonly Finding[],
    removed: readonly RemovedRun[],
  ): readonly Finding[] {
    const gone = removed.map(({ last }) => last)
    const agreed = [...chain.known.keys()].filter((seq) => !chain.otherwise.has(seq))
    for (const seq of [...chain.otherwise].toSorted((one, other) => one - other)) {
      if (removed.some(({ first, last }) => first <= seq && seq <= last)) continue
      const good = Math.max(0, ...[...agreed, ...gone].filter((known) => known < seq))
      // What is wrong in between says it already. Of those that follow, each only repeats the one before.
      if (!found.some((finding) => finding.seq <= seq && finding.through > good)) {
        return [{ kind: 'edited', writer, seq: good + 1, through: seq }]
      }
    }
    return []
  }

  function missing(
    writer: string,
    chain: Chain,
    removed: readonly RemovedRun[],
  ): readonly Finding[] {
    const there = [...chain.runs, ...removed].toSorted((one, other) => one.first - other.first)
    const gaps: Run[] = []
    let next = 1
    for (const { first, last } of there) {
      const gapEnd = Math.min(first - 1, chain.end)
      if (gapEnd >= next) gaps.push({ first: next, last: gapEnd })
      next = Math.max(next, last + 1)
    }
    if (next <= chain.end) gaps.push({ first: next, last: chain.end })
    return gaps.map(({ first, last }) => {
      const kind =
        last < chain.end ? 'removed' : chain.runs.length === 0 ? 'writer_missing' : 'tail_cut'
      return { kind, writer, seq: first, through: last }
    })
  }

  function learn({ writer, seq, hash }: ChainHead): void {
    const chain = chains.get(writer)
    const run = chain?.runs.find(({ first }) => first === seq + 1)
    if (chain !== undefined && run !== undefined) checkFirst(chain, run, hash)
  }

  function* soundRunsOf(chain: Chain): Generator<RemovedRun> {
    const bad = new Map<number, Buffer>()
    for (const { seq, through } of chain.findings) {
      for (let number = seq; number <= through; number += 1) bad.set(number, noHash)
    }
    for (const { seq } of chain.doubles) bad.set(seq, noHash)
    for (const { seq, previous = noHash } of chain.suspects) bad.set(seq, previous)
    const numbers = [...bad.keys()].toSorted((one, other) => one - other)
    for (const run of chain.runs) {
      // Nothing is known of what was before its first row, so that one may have been put there from elsewhere.
      let first = run.firstRow === undefined ? run.first : run.first + 1
      for (const seq of numbers) {
        if (seq < first || seq > run.last) continue
        if (seq > first) yield { first, last: seq - 1, lastHash: bad.get(seq) ?? noHash }
        first = seq + 1
      }
      if (first <= run.last) yield { first, last: run.last, lastHash: run.lastHash }
    }
  }

  return {
    add,
    finish,
    writers: () => chains.size,
    wanted: () =>
      [...chains].flatMap(([writer, { runs }]) =>
        runs
          .filter(({ firstRow }) => firstRow !== undefined)
          .map(({ first }) => ({ writer, seq: first - 1 })),
      ),
    learn,
    soundRuns: () =>
      [...chains].flatMap(([writer, chain]) =>
        [...soundRunsOf(chain)].map((run) => ({ ...run, writer })),
      ),
  }
}

function linkOf(row: ChainedRow, seq: number, previous: Buffer): Buffer {
  const record: ChainedRecord = { ...row, seq }
  return chainHash(previous, lineOfRecord(record))
}

function findingOf(kind: ActivityFindingKind, writer: string, seq: number): Finding {
  return { kind, writer, seq, through: seq }
}

/** Index of the last run that begins at or before `seq`; -1 when there is none. */
function runBefore(runs: readonly OpenRun[], seq: number): number {
  let low = 0
  let high = runs.length
  while (low < high) {
    const middle = (low + high) >> 1
    if ((runs[middle]?.first ?? Infinity) <= seq) low = middle + 1
    else high = middle
  }
  return low - 1
}
