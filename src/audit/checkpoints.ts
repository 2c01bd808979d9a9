import type {
  ActivityProofRecords,
  ChainHead,
  CheckpointContent,
} from '../core/ports/activity-proof.ts'
import type { ActivitySignature, ActivitySigner } from '../core/ports/activity-signer.ts'
import { checkpointText, isSignedBy, removalText } from './signed-statements.ts'

/** A checkpoint as it is logged: all that is needed to verify a copy of the log with it. */
export type CheckpointLine = CheckpointContent & {
  readonly event: 'activity_checkpoint'
  readonly key_id: string
  /** The Ed25519 key, 32 bytes, base64url. */
  readonly public_key: string
  readonly signature: string
}

/** Signs where the chains stand, again and again. */
export type Checkpoints = {
  /** The last one is made when everything that was recorded is stored. */
  readonly stop: () => Promise<void>
}

const retryMs = 5000
const completeEveryMs = 60 * 60_000
/** A line of more than 16 KiB is cut apart by what collects the output of containers. */
const writersPerPart = 50
const removalsPerPage = 1000

/**
 * Makes one checkpoint at once and then one each minute. Each process makes its own, of all writers: that of a process that
 * died is in those of the others. What the database does not take is tried again soon; a call never waits for any of it.
 */
export function startCheckpoints(ports: {
  readonly records: ActivityProofRecords
  readonly signer: ActivitySigner
  readonly log: {
    info(line: CheckpointLine): void
    warn(entry: { readonly event: 'activity_checkpoint_failed' }): void
  }
  readonly intervalMs?: number
}): Checkpoints {
  const { records, signer, log, intervalMs = 60_000 } = ports
  /** Up to where each writer's records are removed, and the last removal that was looked at. */
  const removedTo = new Map<string, number>()
  let lastRemoval = 0
  let lastComplete: { readonly at: number; readonly heads: ReadonlyMap<string, number> } | undefined
  let stopped = false
  let timer: NodeJS.Timeout | undefined
  let running = make(true)

  async function make(complete: boolean): Promise<void> {
    let nextMs = intervalMs
    try {
      await sign(complete)
    } catch {
      log.warn({ event: 'activity_checkpoint_failed' })
      nextMs = Math.min(intervalMs, retryMs)
    }
    if (stopped) return
    timer = setTimeout(() => {
      const due = lastComplete === undefined || Date.now() - lastComplete.at >= completeEveryMs
      running = make(due)
    }, nextMs)
    timer.unref()
  }

  async function sign(complete: boolean): Promise<void> {
    const { at, heads } = await records.heads()
    await learnRemovals()
    const moved = heads.filter(({ writer, seq }) => {
      const isThere = seq > (removedTo.get(writer) ?? 0)
      return isThere && (complete || lastComplete?.heads.get(writer) !== seq)
    })
    for (const content of partsOf(at, complete, moved)) {
      const signed = await signer.sign(checkpointText(content))
      await records.addCheckpoint(content, signed)
      log.info(lineOf(content, signed))
    }
    if (complete) {
      lastComplete = {
        at: Date.now(),
        heads: new Map(heads.map(({ writer, seq }) => [writer, seq])),
      }
    }
  }

  function partsOf(at: Date, complete: boolean, heads: readonly ChainHead[]): CheckpointContent[] {
    const parts = Math.max(1, Math.ceil(heads.length / writersPerPart))
    return Array.from({ length: parts }, (_, index) => ({
      at: at.toISOString(),
      complete,
      part: index + 1,
      parts,
      writers: heads
        .slice(index * writersPerPart, (index + 1) * writersPerPart)
        .map(({ writer, seq, hash }) => ({
          writer,
          from: (removedTo.get(writer) ?? 0) + 1,
          seq,
          hash: hash.toString('hex'),
        })),
    }))
  }

  async function learnRemovals(): Promise<void> {
    for (;;) {
      const page = await records.removals(lastRemoval, removalsPerPage)
      if (page.length === 0) return
      const keys = new Map((await signer.keys()).map(({ kid, x }) => [kid, x]))
      for (const removal of page) {
        lastRemoval = removal.id
        const key = keys.get(removal.keyId)
        if (key === undefined || !isSignedBy(key, removalText(removal), removal.signature)) continue
        const { writer, last } = removal
        removedTo.set(writer, Math.max(last, removedTo.get(writer) ?? 0))
      }
    }
  }

  return {
    async stop() {
      stopped = true
      clearTimeout(timer)
      await running
      await make(true)
    },
  }
}

function lineOf(content: CheckpointContent, { key, signature }: ActivitySignature): CheckpointLine {
  return {
    event: 'activity_checkpoint',
    ...content,
    key_id: key.kid,
    public_key: key.x,
    signature,
  }
}
