import { afterAll, beforeAll, expect, it } from 'vitest'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { type PlainUpstream, startPlainUpstream } from '../support/plain-upstream.ts'

let upstream: PlainUpstream
let broker: TestBroker

beforeAll(async () => {
  upstream = await startPlainUpstream()
  broker = await startTestBroker({
    filesUrl: upstream.url,
    change({ upstreams: { files } }) {
      files['kind'] = 'http'
      files.credential['resource'] = upstream.url
    },
  })
})
afterAll(async () => {
  await broker.stop()
  await upstream.stop()
})

it('V18: an upstream that asks for other scopes with each call fills no table with links', async () => {
  const { sql } = broker.database.database
  let call = 0
  upstream.answerWith((_request, response) => {
    call += 1
    const challenge = `Bearer error="insufficient_scope", scope="files:${call}"`
    response.writeHead(403, { 'www-authenticate': challenge }).end()
  })
  await broker.connect('ada')
  const askedFor = async () => {
    const answer = await broker.call('GET', '/proxy/files/x', 'ada')
    expect(answer.body).toMatchObject({ code: 'connect_required', reason: 'insufficient_scope' })
    return String(answer.body['connect_url'])
  }
  await askedFor()
  // As if it had gone on like this for some minutes.
  await sql`
    INSERT INTO connect_ticket (
      ticket_hash, sealed_ticket, issuer, user_id, upstream, scopes, expires_at, created_at
    )
    SELECT sha256(at::text::bytea), sealed_ticket, issuer, user_id, upstream, scopes, expires_at,
      now() - interval '2 minutes'
    FROM connect_ticket, generate_series(1, 500) AS at
    WHERE user_id = 'ada' AND sealed_ticket IS NOT NULL`
  const link = await askedFor()
  const [left] = await sql<{ count: number }[]>`
    SELECT count(*)::int FROM connect_ticket WHERE user_id = 'ada' AND sealed_ticket IS NOT NULL`
  expect(left?.count).toBe(102)
  // Those of the last minute work.
  expect((await fetch(link, { redirect: 'manual' })).status).toBe(303)
})
