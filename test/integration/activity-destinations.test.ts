import { createHmac, createPublicKey, verify } from 'node:crypto'
import { describe, expect, it, onTestFinished } from 'vitest'
import { type DestinationPorts, startDestinations } from '../../src/audit/destinations.ts'
import type { ActivityDestination } from '../../src/core/activity-destination.ts'
import { Secret } from '../../src/core/secret.ts'
import { createHttpClient } from '../../src/outbound/http-client.ts'
import { createActivityArrivals } from '../../src/storage/activity-arrivals.ts'
import { maintain } from '../../src/storage/maintenance.ts'
import { createTaskLeases } from '../../src/storage/task-leases.ts'
import { createTestDatabase } from '../support/database.ts'
import { type ReceivedRequest, startScriptedServer } from '../support/scripted-server.ts'
import { createTestWriter, proofOf } from './activity-chain.ts'

type Delivery = ReceivedRequest

/** A server that keeps what it gets and answers as it is told; 0 is no answer at all. */
async function receiver() {
  const control = { answer: (_delivery: Delivery): number => 200, body: '{}' }
  const server = await startScriptedServer((delivery, response) => {
    const status = control.answer(delivery)
    if (status === 0) response.destroy()
    else response.writeHead(status, { 'content-type': 'application/json' }).end(control.body)
  })
  onTestFinished(() => server.close())
  return { deliveries: server.requests, control, url: server.origin }
}

type Sent = { data: { records: { id: string; writer: string; seq: number; user_id: string }[] } }

const recordsIn = (deliveries: readonly Delivery[]) =>
  deliveries.flatMap(({ body }) => (JSON.parse(body) as Sent).data.records)

async function testDestinations() {
  const { database, drop } = await createTestDatabase()
  onTestFinished(drop)
  await maintain({ database, retentionDays: 90, log: { info() {}, warn() {} } })
  const proof = proofOf(database)
  const { signer } = proof
  const said: object[] = []
  const log = {
    info: (entry: object) => void said.push(entry),
    warn: (entry: object) => void said.push(entry),
  }

  /** As one process; what it runs is stopped with the test at the latest. */
  function start(
    destinations: readonly ActivityDestination[],
    more: Partial<DestinationPorts> = {},
  ) {
    const running = startDestinations(destinations, {
      arrivals: createActivityArrivals(database),
      leases: createTaskLeases(database),
      signer,
      http: createHttpClient(),
      clock: { now: () => new Date() },
      log,
      version: '1.2.3',
      pollMs: 10,
      retryMs: 20,
      ...more,
    })
    onTestFinished(() => running.stop())
    return running
  }

  const registered = (count = 1) =>
    expect.poll(() => database.sql`select from activity_destination`).toHaveLength(count)

  return {
    database,
    sql: database.sql,
    signer,
    verifyLog: () => proof.verify(),
    said,
    start,
    registered,
  }
}

function webhook(url: string, more: Partial<ActivityDestination> = {}): ActivityDestination {
  const secret = new Secret('a secret of the operator')
  return {
    kind: 'webhook',
    url,
    secret,
    allowPrivateNetwork: false,
    setting: 'audit.destinations[0]',
    ...more,
  }
}

describe('a destination', () => {
  it('gets every record from then on, in the order of arrival, signed by its secret and by our key', async () => {
    const { database, signer, start, registered } = await testDestinations()
    const { deliveries, url } = await receiver()
    const writers = [createTestWriter(database), createTestWriter(database)]
    await writers[0]?.write(2)
    start([webhook(`${url}/hook`)])
    await registered()
    for (let batch = 0; batch < 5; batch += 1) {
      for (const writer of writers) await writer.write(3)
    }
    await expect.poll(() => recordsIn(deliveries)).toHaveLength(30)
    const records = recordsIn(deliveries)
    for (const { writer } of writers) {
      const seqs = records.filter((record) => record.writer === writer).map(({ seq }) => seq)
      expect(seqs).toEqual(seqs.toSorted((one, other) => one - other))
    }
    // What was there before stays in the table alone.
    expect(records[0]).toMatchObject({
      seq: 3,
      writer: writers[0]?.writer,
      user_id: 'person-0',
      issuer: 'https://login.example.com',
    })

    const [key] = await signer.keys()
    const publicKey = createPublicKey({ key: { ...key, createdAt: undefined }, format: 'jwk' })
    for (const { path, headers, body } of deliveries) {
      expect(path).toBe('/hook')
      const signed = `${String(headers['webhook-id'])}.${String(headers['webhook-timestamp'])}.${body}`
      const [symmetric, asymmetric] = String(headers['webhook-signature']).split(' ')
      const hmac = createHmac('sha256', 'a secret of the operator').update(signed).digest('base64')
      expect(symmetric).toBe(`v1,${hmac}`)
      const signature = Buffer.from(asymmetric?.slice('v1a,'.length) ?? '', 'base64')
      expect(verify(null, Buffer.from(signed), publicKey, signature)).toBe(true)
      expect(Math.abs(Number(headers['webhook-timestamp']) - Date.now() / 1000)).toBeLessThan(60)
      expect(headers['authorization']).toBeUndefined()
    }
  })

  it('that fails gets everything when it is back, once for what it took, and delays nothing', async () => {
    const { database, said, start, registered, verifyLog } = await testDestinations()
    const { deliveries, control, url } = await receiver()
    const answers = [500, 0, 302, 429]
    control.answer = () => answers.shift() ?? 200
    start([webhook(url)])
    await registered()
    const writer = createTestWriter(database)
    for (let batch = 0; batch < 4; batch += 1) await writer.write(5)
    expect(await verifyLog()).toMatchObject({ findings: [], records: 20 })
    await expect.poll(() => said).toHaveLength(2)
    await expect.poll(() => recordsIn(deliveries.slice(4))).toHaveLength(20)
    expect(recordsIn(deliveries.slice(4)).map(({ seq }) => seq)).toEqual(
      Array.from({ length: 20 }, (_, index) => index + 1),
    )
    expect(said).toEqual([
      { event: 'activity_destination_failing', at: 'audit.destinations[0]', status: 500 },
      { event: 'activity_destination_recovered', at: 'audit.destinations[0]' },
    ])
  })

  it('is told by one process at a time, and by the next one where that one stopped', async () => {
    const { database, start, registered } = await testDestinations()
    const { deliveries, url } = await receiver()
    const both = [start([webhook(url)]), start([webhook(url)])]
    await registered()
    const writer = createTestWriter(database)
    await writer.write(4)
    await expect.poll(() => recordsIn(deliveries)).toHaveLength(4)
    await Promise.all(both.map((running) => running.stop()))
    await writer.write(3)
    start([webhook(url)])
    await expect.poll(() => recordsIn(deliveries)).toHaveLength(7)
    expect(new Set(recordsIn(deliveries).map(({ id }) => id)).size).toBe(7)
  })

  it('waits for a batch that may still come before those that are there', async () => {
    const { database, sql, start, registered } = await testDestinations()
    const { deliveries, url } = await receiver()
    start([webhook(url)])
    await registered()
    const writer = createTestWriter(database)
    await writer.write(1)
    await expect.poll(() => recordsIn(deliveries)).toHaveLength(1)
    // The id of a statement that is not committed, or never will be.
    await sql`select nextval('activity_batch_id_seq')`
    await writer.write(1)
    await new Promise((resolve) => setTimeout(resolve, 100))
    expect(recordsIn(deliveries)).toHaveLength(1)
    await sql`update activity_batch set arrived_at = now() - interval '2 minutes'`
    await expect.poll(() => recordsIn(deliveries)).toHaveLength(2)
  })

  it('that takes less at once gets less at once', async () => {
    const { database, start, registered } = await testDestinations()
    const { deliveries, control, url } = await receiver()
    control.answer = ({ body }) =>
      (JSON.parse(body) as Sent).data.records.length > 100 ? 413 : 200
    start([webhook(url)])
    await registered()
    await createTestWriter(database).write(300)
    const taken = () => deliveries.filter((delivery) => control.answer(delivery) === 200)
    await expect.poll(() => new Set(recordsIn(taken()).map(({ id }) => id)).size).toBe(300)
  })

  it('of OpenTelemetry gets log records in OTLP over HTTP, with the secret as its bearer', async () => {
    const { database, said, start, registered } = await testDestinations()
    const { deliveries, control, url } = await receiver()
    control.body = '{"partialSuccess":{"rejectedLogRecords":"1","errorMessage":"CNRY"}}'
    start([webhook(`${url}/otel/`, { kind: 'otlp', secret: new Secret('collector-token') })])
    await registered()
    const at = new Date()
    await createTestWriter(database).write(2, () => at)
    await expect.poll(() => deliveries).toHaveLength(1)
    const [delivery] = deliveries
    expect(delivery?.path).toBe('/otel/v1/logs')
    expect(delivery?.headers).toMatchObject({
      authorization: 'Bearer collector-token',
      'content-type': 'application/json',
      'webhook-signature': expect.stringMatching(/^v1,\S+ v1a,\S+$/) as string,
    })
    const body = JSON.parse(delivery?.body ?? '') as {
      resourceLogs: {
        resource: object
        scopeLogs: { logRecords: { attributes: object[] }[] }[]
      }[]
    }
    const [logs] = body.resourceLogs
    expect(logs?.resource).toEqual({
      attributes: [
        { key: 'service.name', value: { stringValue: 'onbehalf' } },
        { key: 'service.version', value: { stringValue: '1.2.3' } },
      ],
    })
    const sent = logs?.scopeLogs[0]?.logRecords ?? []
    expect(sent).toHaveLength(2)
    expect(sent[0]).toMatchObject({
      timeUnixNano: `${at.getTime()}000000`,
      severityNumber: 9,
      eventName: 'onbehalf.credential_broker',
      body: { stringValue: 'inject success' },
    })
    expect(sent[1]?.attributes).toEqual(
      expect.arrayContaining([
        { key: 'onbehalf.seq', value: { intValue: '2' } },
        { key: 'onbehalf.user_id', value: { stringValue: 'person-1' } },
        { key: 'onbehalf.actor_kind', value: { stringValue: 'service' } },
        { key: 'onbehalf.details', value: { stringValue: '{"identity":"token"}' } },
      ]),
    )
    await expect
      .poll(() => said)
      .toEqual([
        { event: 'activity_destination_rejected_records', at: 'audit.destinations[0]', records: 1 },
      ])
  })
})
