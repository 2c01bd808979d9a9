import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { connectTo } from '../support/postgres-client.ts'
import { startTcpDoor, type TcpDoor } from '../support/tcp-door.ts'
import { findTestPort } from '../support/test-port.ts'

/** What operators see of a whole broker. */

let broker: TestBroker
beforeAll(async () => {
  broker = await startTestBroker()
})
afterAll(() => broker.stop())

async function metricsAt(url: string): Promise<ReadonlyMap<string, number>> {
  const text = await (await fetch(`${url}/metrics`)).text()
  const lines = text.split('\n').filter((line) => line.startsWith('onbehalf_'))
  return new Map(
    lines.map((line): [string, number] => {
      const end = line.lastIndexOf(' ')
      return [line.slice(0, end), Number(line.slice(end + 1))]
    }),
  )
}

describe('/metrics', () => {
  it('counts resolutions, and requests to token endpoints: the code of a connect, the exchange of a token', async () => {
    await broker.connect('ada')
    expect((await broker.resolveAs('ada', 'files')).status).toBe(200)
    expect((await broker.resolveAs('ada', 'reports')).status).toBe(200)
    expect((await broker.resolveAs('grace', 'files')).status).toBe(403)
    const metrics = await metricsAt(broker.url)
    expect(Object.fromEntries(metrics)).toMatchObject({
      'onbehalf_resolve_total{outcome="success"}': 2,
      'onbehalf_resolve_total{outcome="failure"}': 1,
      'onbehalf_refresh_total{result="success"}': 0,
      'onbehalf_upstream_token_requests_total{upstream="files",result="success"}': 1,
      'onbehalf_upstream_token_requests_total{upstream="reports",result="success"}': 1,
      onbehalf_audit_dropped_total: 0,
    })
    expect(metrics.has('onbehalf_audit_spool_bytes')).toBe(true)
  })
})

describe('/readyz', () => {
  it('reads no table that people fill: anybody may ask, and a scan for each would stop the database', async () => {
    const asking = Array.from(
      { length: 30 },
      async () => (await fetch(`${broker.url}/readyz`)).status,
    )
    expect(await Promise.all(asking)).toEqual(asking.map(() => 200))
    const other = connectTo(broker.database.url)
    await other.begin(async (sql) => {
      await sql`
        LOCK TABLE credential, connect_ticket, connect_flow, sign_in_flow, sign_in_token, session
        IN ACCESS EXCLUSIVE MODE`
      expect((await fetch(`${broker.url}/readyz`)).status).toBe(200)
    })
    await other.end()
  })
})

describe('Without the database', () => {
  let door: TcpDoor
  let replica: TestBroker
  let metricsUrl: string
  beforeAll(async () => {
    door = await startTcpDoor(broker.database.url)
    const port = await findTestPort()
    metricsUrl = `http://127.0.0.1:${port}`
    replica = await broker.startBeside((config) => {
      config.database.url = door.url
      config.listen['metrics'] = { host: '127.0.0.1', port }
    })
  })
  afterAll(async () => {
    await replica.stop()
    await door.stop()
  })

  it('listen.metrics is the only place of the metrics', async () => {
    expect((await replica.call('GET', '/metrics')).status).toBe(404)
    expect((await metricsAt(metricsUrl)).size).toBeGreaterThan(0)
    const elsewhere = await fetch(`${metricsUrl}/readyz`)
    expect(elsewhere.status).toBe(404)
    expect(elsewhere.headers.get('content-type')).toBe('application/problem+json')
  })

  it('/readyz says that it is the database, 503 with Retry-After; /healthz and /metrics answer; and then all is well', async () => {
    expect((await replica.call('GET', '/readyz')).body).toMatchObject({ status: 'ready' })
    door.shut()
    const ready = await replica.call('GET', '/readyz')
    expect(ready.status).toBe(503)
    expect(ready.headers.get('retry-after')).toMatch(/^[1-9]\d*$/)
    expect(ready.headers.get('content-type')).toBe('application/problem+json')
    expect(ready.body).toMatchObject({
      code: 'storage_unavailable',
      checks: { database: 'failed', spool: 'ok' },
    })
    expect((await replica.call('GET', '/healthz')).status).toBe(200)
    expect((await metricsAt(metricsUrl)).size).toBeGreaterThan(0)
    // Who the person is says their token alone.
    expect((await replica.call('GET', '/api/v1/me', 'ada')).status).toBe(200)
    for (const path of ['/api/v1/connections', '/api/v1/me/activity']) {
      const answer = await replica.call('GET', path, 'ada')
      expect(answer.status, path).toBe(503)
      expect(answer.body['code']).toBe('storage_unavailable')
      expect(answer.headers.get('retry-after')).toMatch(/^[1-9]\d*$/)
    }
    door.open()
    await expect.poll(async () => (await replica.call('GET', '/readyz')).status).toBe(200)
    expect((await replica.call('GET', '/api/v1/connections', 'ada')).status).toBe(200)
  })
})
