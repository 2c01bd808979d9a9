import { randomUUID } from 'node:crypto'
import { writeSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { createAuditRecorder } from '../../dist/audit/recorder.js'
import { uuidV7 } from '../../dist/audit/uuid-v7.js'
import { Secret } from '../../dist/core/secret.js'
import { startWriter } from '../../dist/wiring/writer.js'

// The recording part of a broker as a process of its own, which starts in a tenth of the time: records without end, and says on stdout the
// request id of each that is settled.
const [directory, databaseUrl, durability] = process.argv.slice(2)
const writer = uuidV7(Date.now())
const silent = { error() {}, info() {} }
const recorder = createAuditRecorder({
  directory,
  writer,
  startWriter: (ports) =>
    startWriter({ ...ports, directory, writer, databaseUrl: new Secret(databaseUrl) }),
  clock: { now: () => new Date() },
  durability,
  limitBytes: 1024 ** 3,
  whenFull: 'refuse',
  log: silent,
})
let isStopping = false
process.on('SIGTERM', () => {
  isStopping = true
})

for (;;) {
  if (isStopping) break
  const ids = Array.from({ length: Math.ceil(Math.random() * 30) }, () => randomUUID())
  for (const requestId of ids) {
    recorder.record({
      requestId,
      startedAt: new Date(),
      userId: `person-${Math.floor(Math.random() * 100)}`,
      issuer: 'https://login.example.com',
      actor: { kind: 'service', id: 'edge' },
      upstream: 'files',
      action: 'inject',
      method: 'connect',
      outcome: 'success',
      reason: undefined,
      details: { identity: 'token' },
    })
  }
  await recorder.settled()
  await say(`${ids.join('\n')}\n`)
  await sleep(2 + Math.random() * 10)
}
await recorder.stop()
process.exit(0)

/** At once, as an answer leaves; a reader that is slow is waited for. */
async function say(text) {
  for (;;) {
    try {
      writeSync(1, text)
      return
    } catch (error) {
      if (error.code !== 'EAGAIN') throw error
      await sleep(5)
    }
  }
}
