import { describe, expect, it, onTestFinished, vi } from 'vitest'
import type { CheckpointLine } from '../../src/audit/checkpoints.ts'
import { startTestBroker } from '../support/broker.ts'
import { startScriptedServer } from '../support/scripted-server.ts'
import { holdTable } from './activity-log.ts'
import { createTestWriter } from './activity-chain.ts'

describe('the proof of a running broker', () => {
  it('L16: calls are answered while the table takes nothing; then everything is there, verifies, is signed at the stop, and was sent on', async () => {
    const siem = await startScriptedServer()
    onTestFinished(() => siem.close())
    const broker = await startTestBroker({
      change(config) {
        const destinations = [{ kind: 'webhook', url: siem.origin, secret: 'cnry-siem' }]
        Object.assign(config, { audit: { destinations } })
      },
    })
    let isStopped = false
    onTestFinished(async () => {
      if (!isStopped) await broker.stop()
    })

    const release = await holdTable(broker.database.url)
    for (let call = 0; call < 5; call += 1) {
      expect((await broker.resolveAs('ada', 'files')).status).toBe(403)
    }
    expect(await broker.database.database.sql`select from activity`).toHaveLength(0)
    await release()
    expect(await broker.records(5)).toHaveLength(5)

    type Sent = { readonly data: { readonly records: readonly object[] } }
    await vi.waitFor(
      () => {
        const sent = siem.requests.flatMap(({ body }) => (JSON.parse(body) as Sent).data.records)
        expect(sent).toHaveLength(5)
      },
      { timeout: 15_000 },
    )

    const verdict = await broker.call('GET', '/api/v1/activity/verify', 'linus')
    expect(verdict.headers.get('content-type')).toBe('application/x-ndjson')
    expect(JSON.parse(verdict.text)).toMatchObject({ ok: true, records: 5, writers: 1 })
    const keys = await broker.call('GET', '/api/v1/activity/keys', 'linus')
    expect(keys.body['keys']).toHaveLength(1)

    // Another broker on the database removes what is old, at its start.
    const old = createTestWriter(broker.database.database)
    await old.write(3, () => new Date(Date.now() - 100 * 86_400_000))
    const beside = await broker.startBeside()
    const verified = async () => {
      const after = await beside.call('GET', '/api/v1/activity/verify', 'linus')
      return JSON.parse(after.text) as unknown
    }
    // It does not wait for that for long, before it listens.
    await expect.poll(verified).toMatchObject({ ok: true, records: 5, writers: 2, removed: 3 })
    await beside.stop()

    await broker.broker.stop()
    const lines = broker.logged
      .map((line) => JSON.parse(line) as CheckpointLine)
      .filter(({ event }) => event === 'activity_checkpoint')
    expect(lines.at(-1)).toMatchObject({ complete: true, writers: [{ from: 1, seq: 5 }] })
    const [key] = keys.body['keys'] as { kid: string; x: string }[]
    expect(lines.at(-1)).toMatchObject({ key_id: key?.kid, public_key: key?.x })
    isStopped = true
    await broker.stop()
  })
})
