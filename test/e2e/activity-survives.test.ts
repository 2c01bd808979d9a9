import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { type AuditedBroker, prepareAuditedBroker } from '../chaos/audited-broker.ts'
import { ensureBuilt } from '../support/program.ts'

// A short cut of `npm run test:chaos`. Processes are started here: on a busy machine that takes its time.
vi.setConfig({ testTimeout: 180_000 })
beforeAll(ensureBuilt, 120_000)

let broker: AuditedBroker | undefined
afterEach(async () => {
  await broker?.stop()
  broker = undefined
})

/** Every call that was answered is in the table once, and every chain is whole. */
async function expectNothingLost(of: AuditedBroker): Promise<void> {
  const none = { missing: [], doubled: [], broken: [] }
  await expect.poll(() => of.judge(), { timeout: 60_000, interval: 200 }).toMatchObject(none)
}

describe('the activity log of a process', () => {
  it('L3: that is killed under load has a record of every call that was answered, once, after the next start', async () => {
    broker = await prepareAuditedBroker()
    for (const answers of [20, 300, 90]) {
      await broker.start()
      const end = broker.load(16)
      await broker.answers(answers)
      broker.program().kill('SIGKILL')
      await broker.program().ended
      await end()
    }
    await broker.start()
    await expectNothingLost(broker)
    expect((await broker.judge()).writers).toBe(3)
  })

  it('L4: whose database goes away loses nothing: its calls are recorded when that is back, also those of a process that died meanwhile', async () => {
    broker = await prepareAuditedBroker()
    await broker.start()
    await broker.call()
    let end = broker.load(8)
    await broker.answers(50)
    broker.door.shut()
    await sleep(300)
    await end()
    expect(await broker.metric('onbehalf_audit_spool_bytes')).toBeGreaterThan(0)
    broker.program().kill('SIGKILL')
    await broker.program().ended
    broker.door.open()
    await broker.start()
    end = broker.load(8)
    await broker.answers(50)
    await end()
    await expectNothingLost(broker)
    await expect
      .poll(() => broker?.metric('onbehalf_audit_spool_bytes'), { timeout: 30_000 })
      .toBe(0)
  })

  it('L6: that is told to stop under load, twice, stores every record before it ends', async () => {
    broker = await prepareAuditedBroker()
    await broker.start()
    const end = broker.load(16)
    await broker.answers(200)
    broker.program().kill('SIGTERM')
    broker.program().kill('SIGTERM')
    expect(await broker.program().ended).toMatchObject({ code: 0 })
    await end()
    expect(await broker.judge()).toMatchObject({ missing: [], doubled: [], broken: [] })
    const left = (await readdir(join(broker.dataDir, 'spool'))).length
    expect(left).toBe(0)
  })
})
