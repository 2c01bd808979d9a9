import { afterAll, beforeAll, expect, it } from 'vitest'
import { startTestBroker, type TestBroker } from '../support/broker.ts'

let broker: TestBroker
let replica: TestBroker
beforeAll(async () => {
  broker = await startTestBroker()
  replica = await broker.startBeside()
})
afterAll(() => broker.stop())

it('M-V8: a stream shows what another replica records, and ends properly with its broker', async () => {
  const token = await broker.tokenOf('linus')
  const stream = await fetch(`${replica.url}/api/v1/activity/stream?upstream=reports`, {
    headers: { authorization: `Bearer ${token}` },
  })
  expect(stream.status).toBe(200)
  const reader = stream.body?.pipeThrough(new TextDecoderStream()).getReader()
  expect((await reader?.read())?.value).toMatch(/^:/)
  expect((await broker.resolveAs('ada', 'reports')).status).toBe(200)
  let text = ''
  while (!text.includes('\n\n')) text += (await reader?.read())?.value ?? '\n\n'
  const [id, event, data] = text.split('\n')
  expect(event).toBe('event: activity')
  const record = JSON.parse(data?.slice('data: '.length) ?? '') as { id: string; upstream: string }
  expect(record).toMatchObject({ upstream: 'reports', user_id: 'ada', action: 'acquire' })
  expect(id).toBe(`id: ${record.id}`)

  const counted = await replica.call(
    'GET',
    '/api/v1/activity/summary?group_by=upstream&user_id=ada',
    'linus',
  )
  expect(counted.body['items']).toMatchObject([{ upstream: 'reports', count: 1 }])

  await replica.stop()
  // Cut off after ten seconds, it would throw here.
  expect((await reader?.read())?.done).toBe(true)
})
