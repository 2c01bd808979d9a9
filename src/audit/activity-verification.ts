import { setImmediate as nextTurn } from 'node:timers/promises'
import type { ActivitySigner } from '../core/ports/activity-signer.ts'
import type {
  ActivityFinding,
  ActivityProofRecords,
  ActivityRow,
  ActivityVerdict,
  ActivityVerifier,
  ChainHead,
  CheckpointContent,
} from '../core/ports/activity-proof.ts'
import { createChainVerifier } from './chain-verifier.ts'
import { readRemovals, rowPages } from './proof-pages.ts'
import { checkpointText, isSignedBy, readCheckpoint } from './signed-statements.ts'

export type ActivityVerification = {
  readonly records: ActivityProofRecords
  readonly signer: Pick<ActivitySigner, 'keys'>
  /** Lines of a log that hold checkpoints; all else in it is passed over. */
  readonly checkpointLines?: AsyncIterable<string>
  /** The only public keys (base64url) to be believed; otherwise those that the database proves to be ours. */
  readonly publicKeys?: readonly string[]
}

const otherPerPage = 200
/** Of each writer, spread over its records; more would only say more exactly where hashes were made anew. */
const checkpointsPerWriter = 256
/** Records without a writer that are named one by one. */
const namedUnchained = 1000
const dayMs = 24 * 60 * 60_000
/** A partition may be taken out while it is read. */
const mostAttempts = 5

/** A verifier that runs once at a time, so that no number of questions keeps the process from its work. */
export function createActivityVerifier(ports: ActivityVerification): ActivityVerifier {
  let last: Promise<unknown> = Promise.resolve()
  return {
    verify(options) {
      const run = last.then(() => verifyActivity(ports, options))
      last = run.catch(() => {})
      return run
    },
  }
}

/** Checkpoints that may be believed, and what is wrong with the others. */
type Signed = {
  readonly heads: ReturnType<typeof createCheckpointHeads>
  readonly findings: readonly ActivityFinding[]
}

/**
 * Reads the whole log in the order of its index, so that memory stays flat however long it is. What is recorded meanwhile does
 * no harm: only what the heads of the start count has to be there.
 */
async function verifyActivity(
  ports: ActivityVerification,
  options: Parameters<ActivityVerifier['verify']>[0],
): Promise<ActivityVerdict> {
  const elsewhere = await readCheckpointLines(ports)
  for (let attempt = 1; ; attempt += 1) {
    const before = await ports.records.tables()
    const verdict = await attemptAt(ports, elsewhere, before, options)
    if (verdict.findings.length === 0 || attempt === mostAttempts) return verdict
    // Rows that went from one table to another while both were read may have been seen twice or never, and those of a week that was
    // taken out and dropped meanwhile were not seen, though it is signed for them.
    const isStill = String(await ports.records.tables()) === String(before)
    if (isStill && (await countRemoved(ports)) === verdict.removed) return verdict
  }
}

async function countRemoved(ports: ActivityVerification): Promise<number> {
  const { trusted } = await trustedKeys(ports)
  return (await readRemovals(ports.records, trusted)).count
}

async function attemptAt(
  ports: ActivityVerification,
  elsewhere: Signed,
  tables: readonly string[],
  { signal, onProgress }: Parameters<ActivityVerifier['verify']>[0],
): Promise<ActivityVerdict> {
  const { records } = ports
  // The order counts: rows are read last, so that all are there that the others speak of.
  const { heads } = await records.heads()
  const keys = await trustedKeys(ports)
  const { removed, count: removedCount } = await readRemovals(records, keys.trusted)
  const stored = await readCheckpoints(records, keys)
  const checkpoints = [...elsewhere.heads.list(), ...stored.heads.list()]
  const verifier = createChainVerifier({ heads, checkpoints, removed })
  const unchained = createUnchained(await records.beforeChain())

  const total = heads.reduce((sum, { seq }) => sum + seq, -removedCount)
  let done = 0
  for (const table of tables) {
    for await (const page of rowPages(records, table)) {
      signal.throwIfAborted()
      for (const row of page) {
        if (row.writer === null) unchained.add(row)
        else verifier.add(row)
      }
      done += page.length
      onProgress?.(done, Math.max(total, done))
      // Whoever else has something to do goes first.
      await nextTurn()
    }
  }

  const headsNow = (await records.heads()).heads
  const findings = [
    ...elsewhere.findings,
    ...stored.findings,
    ...unchained.findings(),
    ...verifier.finish(headsNow),
  ]
  return {
    findings,
    records: done,
    writers: verifier.writers(),
    unchained: unchained.count(),
    removed: removedCount,
    checkpoints: elsewhere.heads.count() + stored.heads.count(),
  }
}

/** `ours` are those that the database proves to be ours, `trusted` those of them that the operator names, where any are named. */
type Keys = {
  readonly ours: ReadonlyMap<string, string>
  readonly trusted: ReadonlyMap<string, string>
}

async function trustedKeys({ signer, publicKeys }: ActivityVerification): Promise<Keys> {
  const all = (await signer.keys()).map(({ kid, x }) => [kid, x] as const)
  const trusted = all.filter(([, x]) => publicKeys === undefined || publicKeys.includes(x))
  return { ours: new Map(all), trusted: new Map(trusted) }
}

async function readCheckpoints(records: ActivityProofRecords, keys: Keys): Promise<Signed> {
  const heads = createCheckpointHeads()
  const bad: number[] = []
  let page = await records.checkpoints(0, otherPerPage)
  while (page.length > 0) {
    for (const { id, checkpoint, keyId, signature } of page) {
      const content = readCheckpoint(checkpoint)
      const key = keys.ours.get(keyId)
      const isOurs =
        content !== undefined &&
        key !== undefined &&
        isSignedBy(key, checkpointText(content), signature)
      if (!isOurs) bad.push(id)
      else if (keys.trusted.has(keyId)) heads.add(content)
    }
    await nextTurn()
    page = await records.checkpoints(page.at(-1)?.id ?? Infinity, otherPerPage)
  }
  const [seq] = bad
  const through = bad.at(-1)
  if (seq === undefined || through === undefined) return { heads, findings: [] }
  return { heads, findings: [{ kind: 'edited', writer: 'activity_checkpoint', seq, through }] }
}

async function readCheckpointLines({
  checkpointLines,
  publicKeys,
}: ActivityVerification): Promise<Signed> {
  const heads = createCheckpointHeads()
  const findings: ActivityFinding[] = []
  let number = 0
  for await (const line of checkpointLines ?? []) {
    number += 1
    if (!line.includes('activity_checkpoint')) continue
    const found = readCheckpointLine(line)
    if (found === undefined) continue
    const { content, publicKey, signature } = found
    if (publicKeys?.includes(publicKey) === false) continue
    // The file is the operator's own, so the key in the line is believed where none is named.
    if (isSignedBy(publicKey, checkpointText(content), signature)) heads.add(content)
    else findings.push({ kind: 'edited', writer: 'checkpoints', seq: number, through: number })
  }
  return { heads, findings }
}

/** Reads a line of our log, also where a collector wrapped it up or put something in front. */
function readCheckpointLine(
  line: string,
): { content: CheckpointContent; publicKey: string; signature: string } | undefined {
  const value = parseObject(line.slice(Math.max(0, line.indexOf('{'))))
  if (value === undefined) return undefined
  const wrapped = ['log', 'message', 'msg', 'MESSAGE'].map((name) => value[name])
  const inner = wrapped.find((text) => typeof text === 'string' && text.startsWith('{'))
  const entry = typeof inner === 'string' ? parseObject(inner) : value
  if (entry?.['event'] !== 'activity_checkpoint') return undefined
  const content = readCheckpoint(entry)
  const { public_key: publicKey, signature } = entry
  if (content === undefined || typeof publicKey !== 'string' || typeof signature !== 'string') {
    return undefined
  }
  return { content, publicKey, signature }
}

function parseObject(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === 'object' && value !== null ? { ...value } : undefined
  } catch {
    return undefined
  }
}

/** What checkpoints say of each writer: not all of it, so that years of them fit, but always the last. */
function createCheckpointHeads() {
  const byWriter = new Map<string, ChainHead[]>()
  let count = 0
  return {
    add(content: CheckpointContent): void {
      count += 1
      for (const { writer, seq, hash } of content.writers) {
        const heads = byWriter.get(writer) ?? []
        byWriter.set(writer, heads)
        const last = heads.at(-1)
        if (last?.seq === seq && last.hash.toString('hex') === hash) continue
        heads.push({ writer, seq, hash: Buffer.from(hash, 'hex') })
        if (heads.length <= checkpointsPerWriter) continue
        const sorted = heads.toSorted((one, other) => other.seq - one.seq)
        byWriter.set(writer, sorted.filter((_, index) => index % 2 === 0).toReversed())
      }
    },
    list: (): readonly ChainHead[] => [...byWriter.values()].flat(),
    count: () => count,
  }
}

/** Records that claim no writer: from before there was a chain, or from somebody else. */
function createUnchained({ existed, chainedSince }: { existed: boolean; chainedSince: Date }) {
  // Processes of the version before may have run on beside the first of this one.
  const until = existed ? new Date(chainedSince.getTime() + dayMs).toISOString() : ''
  let count = 0
  let forged = 0
  return {
    add({ occurredAt }: ActivityRow): void {
      if (occurredAt < until) count += 1
      else forged += 1
    },
    count: () => count,
    findings: (): readonly ActivityFinding[] =>
      Array.from({ length: Math.min(forged, namedUnchained) }, () => ({
        kind: 'inserted',
        writer: null,
        seq: null,
        through: null,
      })),
  }
}
