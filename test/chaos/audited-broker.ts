import { randomUUID } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import type postgres from 'postgres'
import { type ChainedRecord, chainHash, genesisHash, lineOfRecord } from '../../src/audit/chain.ts'
import { type BrokerServers, startBrokerServers } from '../support/broker-servers.ts'
import { connectTo } from '../support/postgres-client.ts'
import { type Program, startProgram } from '../support/program.ts'
import { startTcpDoor, type TcpDoor } from '../support/tcp-door.ts'

/** What a call came to. `code`: of a problem. A call that got no whole answer is not here. */
export type Answered = { readonly status: number; readonly code: string | undefined }

/** A broker as a process of its own, callers who keep asking it, and what became of the records of those that were answered. */
export type AuditedBroker = {
  readonly door: TcpDoor
  readonly program: () => Program
  readonly dataDir: string
  /** Starts the process, again on the same `data_dir`; resolves when it is ready. */
  readonly start: () => Promise<void>
  /** Every call that was answered so far, by its request id. */
  readonly answered: ReadonlyMap<string, Answered>
  /** One call; undefined where no whole answer came. */
  readonly call: (signal?: AbortSignal) => Promise<Answered | undefined>
  /** So many callers, each with the next call as soon as it has an answer, until the function that it gives is called. */
  readonly load: (callers: number) => () => Promise<void>
  /** Waits for so many more answers. */
  readonly answers: (count: number) => Promise<void>
  /** Answers by status and code. */
  readonly tally: () => Readonly<Record<string, number>>
  readonly metric: (name: string) => Promise<number>
  /** Once all is in the database: what of the answered calls is not there once, and what is wrong with any chain. */
  readonly judge: () => Promise<Verdict>
  readonly stop: () => Promise<void>
}

export type Verdict = {
  readonly answered: number
  readonly records: number
  readonly writers: number
  readonly missing: readonly string[]
  readonly doubled: readonly string[]
  readonly broken: readonly string[]
}

/** Refused before anything was done, so no record is due. */
const leavesNone = (answered: Answered) => answered.code === 'audit_unavailable'

export async function prepareAuditedBroker(
  change: (config: Record<string, unknown>) => void = () => {},
): Promise<AuditedBroker> {
  const servers: BrokerServers = await startBrokerServers()
  const { config, database, identityProvider, serviceKey } = servers
  const door = await startTcpDoor(database.url)
  config.database.url = door.url
  config.listen = { host: '127.0.0.1', port: 0 }
  change(config)
  const file = join(config.data_dir, 'chaos.json')
  await writeFile(file, JSON.stringify(config))
  const tokens = await Promise.all(
    ['ada', 'grace', 'linus'].map((person) => identityProvider.issueAccessToken(person)),
  )
  for (const token of tokens) servers.scan.register('subject token', token)
  const answered = new Map<string, Answered>()
  let program: Program | undefined
  let url = ''
  let turn = 0

  async function call(signal?: AbortSignal): Promise<Answered | undefined> {
    const requestId = randomUUID()
    turn += 1
    const token = tokens[turn % tokens.length]
    try {
      const response = await fetch(`${url}/api/v1/resolve`, {
        method: 'POST',
        headers: {
          authorization: `Bearer ${serviceKey}`,
          'content-type': 'application/json',
          'x-request-id': requestId,
        },
        body: JSON.stringify({ upstream: 'reports', subject_token: token }),
        ...(signal === undefined ? {} : { signal }),
      })
      const body = (await response.json()) as { code?: string }
      const answer = { status: response.status, code: body.code }
      answered.set(requestId, answer)
      return answer
    } catch {
      return undefined
    }
  }

  return {
    door,
    dataDir: config.data_dir,
    answered,
    program() {
      if (program === undefined) throw new Error('it was not started')
      return program
    },
    async start() {
      program = startProgram(['serve', '--config', file], { cwd: config.data_dir })
      url = await program.ready()
    },
    call,
    load(callers) {
      const end = new AbortController()
      const asking = Array.from({ length: callers }, async () => {
        while (!end.signal.aborted) {
          if ((await call()) === undefined) await sleep(5)
        }
      })
      return async () => {
        end.abort()
        await Promise.all(asking)
      }
    },
    async answers(count) {
      const upTo = answered.size + count
      while (answered.size < upTo) await sleep(2)
    },
    tally() {
      const counts: Record<string, number> = {}
      for (const { status, code } of answered.values()) {
        const what = code === undefined ? `${status}` : `${status} ${code}`
        counts[what] = (counts[what] ?? 0) + 1
      }
      return counts
    },
    async metric(name) {
      const text = await (await fetch(`${url}/metrics`)).text()
      const line = text.split('\n').find((one) => one.startsWith(`${name} `))
      return Number(line?.split(' ')[1])
    },
    async judge() {
      const due = [...answered].filter(([, answer]) => !leavesNone(answer)).map(([id]) => id)
      return judgeRecords(database.url, due)
    },
    async stop() {
      program?.kill('SIGKILL')
      await program?.ended
      await door.stop()
      await servers.stop()
    },
  }
}

type Row = ChainedRecord & { readonly hash: Buffer }

/** Looks for the records of these request ids, and computes every chain again. */
export async function judgeRecords(url: string, due: readonly string[]): Promise<Verdict> {
  // Not through a pool of ours, whose statements have 5 s.
  const sql = connectTo(url)
  try {
    return await judge(sql, due)
  } finally {
    await sql.end()
  }
}

async function judge(sql: postgres.Sql, due: readonly string[]): Promise<Verdict> {
  const counts = new Map<string, number>()
  const heads = new Map<string, { seq: number; hash: Buffer }>()
  const broken = new Set<string>()
  let records = 0
  const rows = sql<Row[]>`
    select id, to_char(occurred_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') as "occurredAt",
      request_id as "requestId", type, user_id as "userId", issuer, actor_kind as "actorKind", actor_id as "actorId",
      upstream, action, method, outcome, reason, duration_ms as "durationMs", details, writer, seq::float8 as seq, hash
    from activity order by writer, seq`
  for await (const part of rows.cursor(5000)) {
    for (const row of part) {
      records += 1
      counts.set(row.requestId, (counts.get(row.requestId) ?? 0) + 1)
      const before = heads.get(row.writer) ?? { seq: 0, hash: genesisHash }
      const hash = chainHash(before.hash, lineOfRecord(row))
      if (row.seq !== before.seq + 1 || !hash.equals(row.hash))
        broken.add(`${row.writer} ${row.seq}`)
      heads.set(row.writer, { seq: row.seq, hash: row.hash })
    }
  }
  return {
    answered: due.length,
    records,
    writers: heads.size,
    missing: due.filter((id) => !counts.has(id)),
    doubled: [...counts].filter(([, count]) => count > 1).map(([id]) => id),
    broken: [...broken],
  }
}
