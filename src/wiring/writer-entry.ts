import { parentPort, workerData } from 'node:worker_threads'
import { createSpoolMeter } from '../audit/spool-meter.ts'
import { logTo, type ToWriter } from '../audit/writer-thread.ts'
import { Secret } from '../core/secret.ts'
import { openWriter, type WriterThreadData } from './writer.ts'

/** The thread that brings the spool to the database: what `startWriter` starts. */
if (parentPort !== null) {
  const port = parentPort
  const { directory, writer, databaseUrl, meter } = workerData as WriterThreadData
  const running = openWriter({
    directory,
    writer,
    databaseUrl: new Secret(databaseUrl),
    meter: createSpoolMeter(meter),
    log: logTo(port),
  })
  port.on('message', (message: ToWriter) => {
    if (message.kind === 'hurry') {
      running.hurry()
      return
    }
    // The thread alone ends by this, whatever timers are left.
    void running.stop(message.deadlineMs).finally(() => process.exit())
  })
}
