import { SignJWT } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { hasNginx, startNginx } from '../support/nginx.ts'
import { type PlainUpstream, startPlainUpstream } from '../support/plain-upstream.ts'
import { findTestPort } from '../support/test-port.ts'

if (!hasNginx) {
  console.warn('nginx is not installed, so its recipe is not tested: apt-get install nginx')
}

describe.skipIf(!hasNginx)('nginx and onbehalf, by the recipe in examples/nginx', () => {
  let upstream: PlainUpstream
  let broker: TestBroker
  let nginx: Awaited<ReturnType<typeof startNginx>>

  beforeAll(async () => {
    upstream = await startPlainUpstream()
    const port = await findTestPort()
    broker = await startTestBroker({
      change(config) {
        config.upstreams.reports['external_url'] = `http://127.0.0.1:${port}/reports`
        config.identity.issuers.push({ ...scoped, algorithms: ['HS256'] })
      },
    })
    nginx = await startNginx({ ...recipe('reports'), port })
  })
  afterAll(async () => {
    await nginx.stop()
    await broker.stop()
    await upstream.stop()
  })

  const recipe = (name: string) => ({
    name,
    onbehalf: broker.url,
    upstream: upstream.url,
    serviceKey: broker.serviceKey,
  })

  async function call(url: string, person: string, init: RequestInit = {}): Promise<Response> {
    const headers = { authorization: `Bearer ${await broker.tokenOf(person)}` }
    return fetch(url, { ...init, headers })
  }

  it('each person’s call reaches the upstream with that person’s own credential, and with no key of ours', async () => {
    const subjects: unknown[] = []
    for (const person of ['ada', 'grace']) {
      const answer = await call(`${nginx.url}/reports/of-${person}`, person)
      expect(answer.status).toBe(200)
      const hit = upstream.hits.at(-1)
      expect(hit?.target).toBe(`/of-${person}`)
      expect(hit?.headers['x-onbehalf-service-key']).toBeUndefined()
      subjects.push(subjectOf(hit?.headers.authorization))
    }
    expect(subjects).toEqual([expect.stringMatching(/^ada/), expect.stringMatching(/^grace/)])
  })

  it('a body goes to the upstream and not to onbehalf', async () => {
    const answer = await call(`${nginx.url}/reports/echo`, 'ada', {
      method: 'POST',
      body: 'a body',
    })
    expect(await answer.text()).toBe('a body')
  })

  it('without a token it is 401, and the challenge leads to the document of that address', async () => {
    const before = upstream.hits.length
    const answer = await fetch(`${nginx.url}/reports/x`)
    expect(answer.status).toBe(401)
    const document = `${broker.url}/.well-known/oauth-protected-resource/ext-authz/reports`
    expect(answer.headers.get('www-authenticate')).toContain(`resource_metadata="${document}"`)
    const passedOn = await fetch(`${nginx.url}/.well-known/oauth-protected-resource/reports`)
    expect(await passedOn.json()).toMatchObject({ resource: `${nginx.url}/reports` })
    expect(upstream.hits.length).toBe(before)
  })

  it('a token that lacks a scope is 403, and the challenge names the scope', async () => {
    const token = await new SignJWT({ scope: 'other', sub: 'ada' })
      .setProtectedHeader({ alg: 'HS256', typ: 'at+jwt' })
      .setIssuer(scoped.issuer)
      .setAudience(broker.url)
      .setExpirationTime('5 minutes')
      .sign(Buffer.from(scoped.secret))
    const headers = { authorization: `Bearer ${token}` }
    const answer = await fetch(`${nginx.url}/reports/x`, { headers })
    expect(answer.status).toBe(403)
    const challenge = answer.headers.get('www-authenticate')
    expect(challenge).toContain('scope="reports:use", error="insufficient_scope"')
    expect(await answer.json()).toMatchObject({ status: 403, code: 'insufficient_scope' })
  })

  it('a person who is not connected gets 403 with the link', async () => {
    const before = upstream.hits.length
    const files = await startNginx(recipe('files'))
    const answer = await call(`${files.url}/files/x`, 'grace')
    await files.stop()
    expect(answer.status).toBe(403)
    const link = answer.headers.get('x-onbehalf-connect-url')
    expect(link).toMatch(/\/connect\/[\w-]{43}$/)
    expect(await answer.json()).toEqual({
      status: 403,
      code: 'connect_required',
      connect_url: link,
    })
    expect(upstream.hits.length).toBe(before)
  })

  it('while onbehalf is not there it is 503, and nothing passes', async () => {
    const before = upstream.hits.length
    const onbehalf = `http://127.0.0.1:${await findTestPort()}`
    const alone = await startNginx({ ...recipe('reports'), onbehalf })
    const answer = await call(`${alone.url}/reports/x`, 'ada')
    await alone.stop()
    expect(answer.status).toBe(503)
    expect(upstream.hits.length).toBe(before)
  })
})

/** An issuer whose tokens need a scope. */
const scoped = {
  issuer: 'https://scoped.example.com',
  secret: 'a secret of at least 32 characters',
  required_scopes: ['reports:use'],
}

function subjectOf(authorization: string | undefined): unknown {
  const payload = authorization?.split('.')[1] ?? ''
  return (JSON.parse(Buffer.from(payload, 'base64url').toString()) as { sub?: unknown }).sub
}
