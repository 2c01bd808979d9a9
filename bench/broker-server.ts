import { readFileSync } from 'node:fs'
import { bareApp } from './bare-server.ts'
import { memoryAtRest, memoryNow, serveQuestions } from './child.ts'
import { createBroker } from '../dist/index.js'

/** The broker as `serve` runs it, answering questions about its own process. */
const config = JSON.parse(process.env['BROKER_CONFIG'] ?? '') as object
const requests = JSON.parse(process.env['SAMPLE_REQUESTS'] ?? '[]') as {
  headers: Record<string, string>
  body: string
}[]
const broker = await createBroker(config)
const url = await broker.listen()

const warmCalls = 20_000
/** As many as the connections of the load over HTTP. */
const together = 32

/** µs of CPU a call: of the thread that answers, and of the whole process with the records' writer and the garbage collector. */
type CpuPerCall = { readonly answering: number; readonly process: number }

/** Of one call through an application's own `fetch`, without a socket. */
async function cpuPerCall(
  fetch: (request: Request) => Response | Promise<Response>,
): Promise<CpuPerCall> {
  const started = cpuNow()
  for (let call = 0; call < warmCalls; call += together) {
    await Promise.all(Array.from({ length: together }, (_, index) => one(call + index)))
  }

  async function one(call: number): Promise<void> {
    const sample = requests[call % requests.length]
    if (sample === undefined) throw new Error('no sample requests')
    const request = new Request(`${url}/api/v1/resolve`, { method: 'POST', ...sample })
    const answer = await fetch(request)
    if (answer.status !== 200) throw new Error(`the sample was answered ${answer.status}`)
    // Not read: over a socket an answer is written as it is, without the streams that reading it here would make.
  }

  await recordsWritten()
  const ended = cpuNow()
  return {
    answering: (ended.answering - started.answering) / warmCalls,
    process: (ended.process - started.process) / warmCalls,
  }
}

function cpuNow(): CpuPerCall {
  const { user, system } = process.cpuUsage()
  // What Linux counts for the main thread, in ns; Node 20 has no `process.threadCpuUsage`.
  const [ns] = readFileSync(`/proc/self/task/${process.pid}/schedstat`, 'utf8').split(' ')
  return { answering: Number(ns) / 1000, process: user + system }
}

/** What the calls left to do is part of what they cost. */
async function recordsWritten(): Promise<void> {
  for (;;) {
    const metrics = await broker.app.fetch(new Request(`${url}/metrics`))
    if (/^onbehalf_audit_spool_bytes 0$/m.test(await metrics.text())) return
    await new Promise((resolve) => setTimeout(resolve, 200))
  }
}

async function cpuRounds(): Promise<{ broker: CpuPerCall[]; bare: CpuPerCall[] }> {
  const rounds = { broker: [] as CpuPerCall[], bare: [] as CpuPerCall[] }
  const warmUpRounds = 2
  for (let round = 0; round < 9 + warmUpRounds; round += 1) {
    const bare = await cpuPerCall((request) => bareApp.fetch(request))
    const ours = await cpuPerCall((request) => broker.app.fetch(request))
    if (round < warmUpRounds) continue
    rounds.bare.push(bare)
    rounds.broker.push(ours)
  }
  return rounds
}

serveQuestions(Number(new URL(url).port), {
  memory: memoryNow,
  'memory at rest': memoryAtRest,
  cpu: cpuRounds,
})
process.on('SIGTERM', () => void broker.stop().then(() => process.exit(0)))
