import { setTimeout as sleep } from 'node:timers/promises'
import { LRUCache } from 'lru-cache'
import { BrokerError } from '../../core/errors.ts'
import type { ResolvedCredential } from '../../core/ports/broker-services.ts'
import type { GatewayCall } from '../../core/ports/gateway.ts'
import type {
  UpstreamServerRecord,
  UpstreamServerRecords,
} from '../../core/ports/gateway-session-records.ts'
import type { Forwarder } from '../forward.ts'
import { answerTo, collect, resultIn } from './collected-answer.ts'
import { errorCode, isObject, type JsonObject } from './json-rpc.ts'
import { canonicalJson } from './json-text.ts'
import { isKeepable } from './keepable.ts'
import { metaKey, modernRevision } from './revisions.ts'
import { mcpTarget, ownHeaders } from './target.ts'

/** What upstreams said of themselves, to whomever: what people see who are not connected yet. */
export type KnownServers = {
  readonly find: (upstream: string) => UpstreamServerRecord | Promise<UpstreamServerRecord>
  /** Asks an upstream that was never asked, with the credential of the first person who has one. Never rejects. */
  readonly ask: (
    call: GatewayCall,
    credential: ResolvedCredential,
  ) => UpstreamServerRecord | Promise<UpstreamServerRecord>
  /** Notes what an answer to `initialize` or `server/discover` says. */
  readonly note: (upstream: string, result: JsonObject) => Promise<void>
}

/** What is known changes seldom, and a replica may learn of it late: nobody waits for that. */
const readAgainMs = 10_000
/** A call does not wait longer than this for an upstream that makes nothing of the question. */
const longestAskMs = 5000
/** It is not asked again at once by everybody's calls. */
const askAgainMs = 60_000
const discoverId = 'onbehalf-discover'

export function createKnownServers(ports: {
  readonly records: UpstreamServerRecords
  readonly forwarder: Forwarder
}): KnownServers {
  const { records, forwarder } = ports
  const kept = new Map<string, { readonly server: UpstreamServerRecord; readAgainAtMs: number }>()
  const failed = new LRUCache<string, true>({ max: 1000, ttl: askAgainMs })
  const asking = new Map<string, Promise<UpstreamServerRecord>>()

  function find(upstream: string): UpstreamServerRecord | Promise<UpstreamServerRecord> {
    const known = kept.get(upstream)
    if (known === undefined) return read(upstream)
    const nowMs = performance.now()
    if (nowMs >= known.readAgainAtMs) {
      known.readAgainAtMs = nowMs + readAgainMs
      // A database that is away keeps nobody's call, and is asked again.
      read(upstream).catch(() => {})
    }
    return known.server
  }

  async function read(upstream: string): Promise<UpstreamServerRecord> {
    const server = await records.find(upstream)
    kept.set(upstream, { server, readAgainAtMs: performance.now() + readAgainMs })
    return server
  }

  async function note(upstream: string, server: UpstreamServerRecord): Promise<void> {
    await records.note(upstream, server)
    kept.delete(upstream)
  }

  async function discover(
    call: GatewayCall,
    credential: ResolvedCredential,
  ): Promise<UpstreamServerRecord> {
    const upstream = call.upstream.name
    // Another replica may have asked since this one read.
    const known = await read(upstream)
    if (known.revisions !== undefined) return known
    const answer = await collect(
      (to) =>
        forwarder.forward(
          {
            call,
            method: 'POST',
            target: mcpTarget(call.upstream),
            headers: [...ownHeaders, 'MCP-Protocol-Version', modernRevision, 'Mcp-Method', method],
            body: { kind: 'whole', content: Buffer.from(JSON.stringify(question)) },
            answer: to,
            whenGone: 'abort',
            // What the gateway asks for itself costs nobody a renewal.
            isStale: ({ status }) => status === 401,
          },
          credential,
        ),
      discoverId,
    )
    const message = answerTo(discoverId, answer)
    const result = resultIn(message)
    const revisions = revisionsIn(result) ?? (isRefusal(answer.status, message) ? [] : undefined)
    if (revisions === undefined) throw new BrokerError('upstream_unavailable')
    await note(upstream, { revisions, capabilities: capabilitiesIn(result) })
    return find(upstream)
  }

  async function askOnce(
    call: GatewayCall,
    credential: ResolvedCredential,
  ): Promise<UpstreamServerRecord> {
    const upstream = call.upstream.name
    const known = await find(upstream)
    if (known.revisions !== undefined || failed.has(upstream)) return known
    const question =
      asking.get(upstream) ??
      discover(call, credential)
        .catch(() => {
          failed.set(upstream, true)
          return known
        })
        .finally(() => asking.delete(upstream))
    asking.set(upstream, question)
    // What it says matters to people who are not connected; the call of this one goes on.
    return Promise.race([question, sleep(longestAskMs, known, { ref: false })])
  }

  return {
    find,
    ask(call, credential) {
      const known = find(call.upstream.name)
      if ('revisions' in known && known.revisions !== undefined) return known
      return askOnce(call, credential)
    },
    async note(upstream, result) {
      const said = { revisions: revisionsIn(result), capabilities: capabilitiesIn(result) }
      const known = await find(upstream)
      const isNews = (['revisions', 'capabilities'] as const).some(
        (name) =>
          // The database puts members in an order of its own.
          said[name] !== undefined && canonicalJson(said[name]) !== canonicalJson(known[name]),
      )
      if (isNews) await note(upstream, said)
    },
  }
}

const method = 'server/discover'

const question = {
  jsonrpc: '2.0',
  id: discoverId,
  method,
  params: {
    _meta: { [metaKey.protocolVersion]: modernRevision, [metaKey.clientCapabilities]: {} },
  },
}

function revisionsIn(result: JsonObject | undefined): readonly string[] | undefined {
  const revisions = result?.['supportedVersions']
  if (!Array.isArray(revisions)) return undefined
  return revisions.slice(0, mostRevisions).filter(isRevision)
}

const mostRevisions = 20

function isRevision(revision: unknown): revision is string {
  return typeof revision === 'string' && /^[\x21-\x7e]{1,32}$/.test(revision)
}

/** They are kept, and said again to everybody who is not connected. */
const longestCapabilities = 64 * 1024

function capabilitiesIn(result: JsonObject | undefined): JsonObject | undefined {
  const capabilities = result?.['capabilities']
  if (!isObject(capabilities) || !isKeepable(capabilities)) return undefined
  return JSON.stringify(capabilities).length > longestCapabilities ? undefined : capabilities
}

/** Whether an upstream that does not know the question said so; anything else may be a passing fault. */
function isRefusal(status: number, message: JsonObject | undefined): boolean {
  if (status === 400 || status === 404 || status === 405) return true
  const error = message?.['error']
  const code = isObject(error) ? error['code'] : undefined
  return code === errorCode.methodNotFound || code === errorCode.unsupportedRevision
}
