import { readFileSync } from 'node:fs'
import { register } from 'node:module'
import { serveQuestions } from './child.ts'

/** The broker as `serve` runs it; with `RECORDING=off` one that records nothing, which the product itself cannot do. */
if (process.env['RECORDING'] === 'off') register('./without-recording.js', import.meta.url)
const { createBroker } = await import('../dist/index.js')
const broker = await createBroker(JSON.parse(process.env['BROKER_CONFIG'] ?? '') as object)
const url = await broker.listen()

/** Until the records of the calls so far are stored. */
async function stored(): Promise<void> {
  for (;;) {
    const metrics = await broker.app.fetch(new Request(`${url}/metrics`))
    if (/^onbehalf_audit_spool_bytes 0$/m.test(await metrics.text())) return
    await new Promise((resolve) => setTimeout(resolve, 100))
  }
}

/** CPU of the thread that answers, in µs; of the whole process where the system does not tell. */
function answering(): number {
  try {
    // Behind the name, which may hold anything: user and system time are the 12th and 13th, in ticks of 10 ms.
    const stat = readFileSync(`/proc/self/task/${process.pid}/stat`, 'utf8')
    const values = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return (Number(values[11]) + Number(values[12])) * 10_000
  } catch {
    const { user, system } = process.cpuUsage()
    return user + system
  }
}

serveQuestions(Number(new URL(url).port), { stored, answering })
process.on('SIGTERM', () => void broker.stop().then(() => process.exit(0)))
