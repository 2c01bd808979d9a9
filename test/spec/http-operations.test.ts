import { describe, expect, it } from 'vitest'
import { createMetricsApp } from '../../src/http/routes/metrics.ts'
import { adaToken, adminToken, createHttpRoom, problemOf } from '../support/http-room.ts'

describe('Health', () => {
  it('/healthz says that the process answers', async () => {
    const { app } = createHttpRoom()
    const response = await app.request('/healthz')
    expect(response.status).toBe(200)
    expect(await response.json()).toEqual({ status: 'ok' })
  })

  it('/readyz looks at database, spool and keys', async () => {
    const { app } = createHttpRoom()
    const response = await app.request('/readyz')
    expect(response.status).toBe(200)
    expect(await response.json()).toEqual({
      status: 'ready',
      checks: { database: 'ok', spool: 'ok', keys: 'ok' },
    })
  })

  it.each([
    ['database', 'storage_unavailable'],
    ['spool', 'audit_unavailable'],
    ['keys', 'storage_unavailable'],
  ] as const)('/readyz is 503 with Retry-After without %s', async (name, code) => {
    const { app, room } = createHttpRoom()
    room.ready[name] = false
    const response = await app.request('/readyz')
    expect(response.status).toBe(503)
    expect(response.headers.get('retry-after')).toMatch(/^\d+$/)
    expect(await problemOf(response)).toMatchObject({ code, checks: { [name]: 'failed' } })
  })
})

describe('/metrics', () => {
  it('gives the text for Prometheus', async () => {
    const { app } = createHttpRoom()
    const response = await app.request('/metrics')
    expect(response.headers.get('content-type')).toBe('text/plain; version=0.0.4')
    expect(await response.text()).toContain('onbehalf_resolve_total')
  })

  it('has nothing else on a listener of its own, and says so as everywhere', async () => {
    const { services } = createHttpRoom()
    if (services.metrics === undefined) throw new Error('the room has metrics')
    const app = createMetricsApp(services.metrics)
    expect(await (await app.request('/metrics')).text()).toContain('onbehalf_resolve_total')
    const elsewhere = await app.request('/api/v1/me')
    expect(elsewhere.status).toBe(404)
    expect(await problemOf(elsewhere)).toMatchObject({ code: 'not_found', status: 404 })
  })

  it('is not here when it has a listener of its own', async () => {
    const { app } = createHttpRoom({ metrics: undefined })
    expect((await app.request('/metrics')).status).toBe(404)
  })
})

describe('RFC 9728 documents', () => {
  const base = '/.well-known/oauth-protected-resource'

  it.each([
    ['', 'https://broker.example.com'],
    ['/mcp/files', 'https://broker.example.com/mcp/files'],
  ])('F-8: %j is public, for every origin, and may be kept', async (path, resource) => {
    const { app } = createHttpRoom()
    const response = await app.request(base + path)
    expect(response.status).toBe(200)
    expect(response.headers.get('content-type')).toContain('application/json')
    expect(response.headers.get('access-control-allow-origin')).toBe('*')
    expect(response.headers.get('cache-control')).toBe('public, max-age=300')
    expect(await response.json()).toMatchObject({
      resource,
      authorization_servers: ['https://login.example.com'],
    })
  })

  it.each(['/mcp/nope', '/proxy/files', '/ext-authz/files', '/', '/mcp'])(
    'knows no %s: 404, which a client of another origin can read',
    async (path) => {
      const { app } = createHttpRoom()
      const response = await app.request(base + path)
      expect(response.status).toBe(404)
      expect(response.headers.get('access-control-allow-origin')).toBe('*')
      expect(response.headers.get('cross-origin-resource-policy')).toBe('cross-origin')
      expect(await problemOf(response)).toMatchObject({ code: 'not_found' })
    },
  )

  it('answers the preflight of a client in a browser', async () => {
    const { app } = createHttpRoom()
    const response = await app.request(`${base}/mcp/files`, {
      method: 'OPTIONS',
      headers: {
        origin: 'https://client.example',
        'access-control-request-method': 'GET',
        'access-control-request-headers': 'mcp-protocol-version',
      },
    })
    expect(response.status).toBe(204)
    expect(response.headers.get('access-control-allow-origin')).toBe('*')
    expect(response.headers.get('access-control-allow-headers')).toBe('*')
  })
})

describe('Every answer', () => {
  it('is not kept, sniffed, framed or shared with other origins', async () => {
    const { app } = createHttpRoom()
    for (const path of ['/api/v1/me', '/healthz', '/nowhere']) {
      const { headers } = await app.request(path, {
        headers: { authorization: `Bearer ${adaToken}`, origin: 'https://evil.example' },
      })
      expect(headers.get('cache-control')).toBe('no-store')
      expect(headers.get('x-content-type-options')).toBe('nosniff')
      expect(headers.get('content-security-policy')).toContain("frame-ancestors 'none'")
      expect(headers.get('referrer-policy')).toBe('no-referrer')
      expect(headers.get('strict-transport-security')).toBe('max-age=31536000')
      expect(headers.has('access-control-allow-origin')).toBe(false)
      expect(headers.get('x-request-id')).toMatch(/^[\da-f-]{36}$/)
    }
  })

  it('asks for TLS only where there is TLS', async () => {
    const { app } = createHttpRoom({ publicUrl: 'http://127.0.0.1:8080' })
    const { headers } = await app.request('/healthz')
    expect(headers.has('strict-transport-security')).toBe(false)
  })

  it('carries the request id that the caller sent, where it is a UUID', async () => {
    const { app } = createHttpRoom()
    const id = '0194c0de-0000-7000-8000-000000000001'
    const sent = await app.request('/healthz', { headers: { 'x-request-id': id } })
    expect(sent.headers.get('x-request-id')).toBe(id)
    const refused = await app.request('/nowhere', { headers: { 'x-request-id': id } })
    expect(await problemOf(refused)).toMatchObject({ code: 'not_found', request_id: id })
    const forged = await app.request('/healthz', { headers: { 'x-request-id': `${id} x` } })
    expect(forged.headers.get('x-request-id')).not.toContain('x')
  })

  it('405 names the methods that an address takes; HEAD comes with GET', async () => {
    const { app } = createHttpRoom()
    const wrong = await app.request('/api/v1/connections/files', { method: 'PUT' })
    expect(wrong.status).toBe(405)
    expect(wrong.headers.get('allow')).toBe('GET, HEAD, DELETE')
    expect(await problemOf(wrong)).toMatchObject({ code: 'method_not_allowed' })
    const unknown = await app.request('/api/v1/connections/files', { method: 'PROPFIND' })
    expect(unknown.status).toBe(405)
    expect(unknown.headers.get('allow')).toBe('GET, HEAD, DELETE')
    const head = await app.request('/healthz', { method: 'HEAD' })
    expect(head.status).toBe(200)
    expect(await head.text()).toBe('')
  })

  it.each(['/api/v1/activity/stream', '/callback/files', '/login', '/login/callback'])(
    '405 at %s names GET alone, because HEAD is refused there',
    async (path) => {
      const { app } = createHttpRoom()
      const headers = { authorization: `Bearer ${adminToken}` }
      for (const method of ['DELETE', 'HEAD', 'PROPFIND']) {
        const refused = await app.request(path, { method, headers })
        expect(refused.status).toBe(405)
        expect(refused.headers.get('allow')).toBe('GET')
      }
    },
  )
})
