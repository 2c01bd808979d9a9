import { LRUCache } from 'lru-cache'
import { type PersonId, personKey } from '../core/caller.ts'
import { BrokerError } from '../core/errors.ts'

/** A call, or a stream, that is open for a person. */
export type OpenCall = {
  readonly upstream: string
  /** False for a stream that waits for its person to connect: no disconnect ends that. */
  readonly usesCredential: boolean
  /** `error`: what the caller is told where nothing of an answer has left. */
  readonly cut: (error: BrokerError) => void
}

/** The calls that are open on this replica, by person. */
export type OpenCalls = {
  /** Counts a request from its first to its last moment. Gives what ends the counting. @throws BrokerError too_many_streams */
  readonly admit: (person: PersonId) => () => void
  /** Makes what is open known to those who cut it. Gives what takes it off again. */
  readonly add: (person: PersonId, call: OpenCall) => () => void
  /** Calls `changed` when the person's connection is another than it was. Gives what ends it. */
  readonly onChange: (person: PersonId, upstream: string, changed: () => void) => () => void
  /** The person's connection is another than it was; without an upstream any of theirs. */
  readonly change: (person: PersonId, upstream: string | undefined) => void
  /** Cuts what a person's credential for an upstream is used for; without an upstream all that the person has open. */
  readonly cut: (person: PersonId, upstream: string | undefined) => void
  /** Cuts everything. */
  readonly cutAll: () => void
  /** How many times anything was cut: an instant to ask about later. */
  readonly cuts: () => number
  /** Whether what a person got for an upstream at that instant was cut since, before it was open. */
  readonly isCutSince: (person: PersonId, upstream: string, cuts: number) => boolean
}

const mostAPerson = 100

/** More than there are between a resolution and the call that uses it. */
const rememberedCuts = 10_000

function cutKey(person: PersonId, upstream: string | undefined): string {
  return JSON.stringify([personKey(person), upstream ?? null])
}

type Listener = { readonly upstream: string; readonly changed: () => void }

export function createOpenCalls(): OpenCalls {
  const open = new Map<string, Set<OpenCall>>()
  const changes = new Map<string, Set<Listener>>()
  const admitted = new Map<string, number>()
  let cuts = 0
  let lastOfAll = 0
  const lastOf = new LRUCache<string, number>({ max: rememberedCuts })
  return {
    admit(person) {
      const key = personKey(person)
      const count = admitted.get(key) ?? 0
      if (count >= mostAPerson) throw new BrokerError('too_many_streams')
      admitted.set(key, count + 1)
      return () => {
        const left = (admitted.get(key) ?? 1) - 1
        if (left === 0) admitted.delete(key)
        else admitted.set(key, left)
      }
    },
    add: (person, call) => addTo(open, personKey(person), call),
    onChange: (person, upstream, changed) =>
      addTo(changes, personKey(person), { upstream, changed }),
    change(person, upstream) {
      for (const listener of changes.get(personKey(person)) ?? []) {
        if (upstream === undefined || listener.upstream === upstream) listener.changed()
      }
    },
    cuts: () => cuts,
    isCutSince(person, upstream, since) {
      if (since === cuts) return false
      const last = [undefined, upstream].map((of) => lastOf.get(cutKey(person, of)) ?? 0)
      return Math.max(lastOfAll, ...last) > since
    },
    cut(person, upstream) {
      cuts += 1
      lastOf.set(cutKey(person, upstream), cuts)
      for (const call of open.get(personKey(person)) ?? []) {
        const isMeant = call.upstream === upstream && call.usesCredential
        if (upstream === undefined) call.cut(new BrokerError('unauthenticated'))
        else if (isMeant) call.cut(new BrokerError('connect_required', { reason: 'not_connected' }))
      }
    },
    cutAll() {
      cuts += 1
      lastOfAll = cuts
      for (const calls of open.values())
        for (const call of calls) call.cut(new BrokerError('storage_unavailable'))
    },
  }
}

/** Adds it to the set at a key, which lives as long as it holds something. Gives what takes it off again. */
function addTo<Item>(sets: Map<string, Set<Item>>, key: string, item: Item): () => void {
  const items = sets.get(key) ?? new Set()
  sets.set(key, items.add(item))
  return () => {
    items.delete(item)
    if (items.size === 0 && sets.get(key) === items) sets.delete(key)
  }
}
