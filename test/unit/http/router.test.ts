import { Hono } from 'hono'
import { describe, expect, it } from 'vitest'
import { createRouter } from '../../../src/http/router.ts'

function appOf(): { app: Hono; seen: string[] } {
  const seen: string[] = []
  const app = new Hono({ router: createRouter() })
  app.post('/hot', (c) => c.text('hot'))
  app.use('*', async (c, next) => {
    seen.push(c.req.path)
    await next()
  })
  app.get('/records/keys', (c) => c.text('keys'))
  app.get('/records/:id', (c) => c.text(`record ${c.req.param('id')}`))
  app.get('/late', (c) => c.text('late'))
  return { app, seen }
}

describe('the router', () => {
  it('finds a fixed path that was added before any pattern alone: no middleware runs around it', async () => {
    const { app, seen } = appOf()
    expect(app.router.match('POST', '/hot')[0]).toHaveLength(1)
    expect(await (await app.request('/hot', { method: 'POST' })).text()).toBe('hot')
    expect(seen).toEqual([])
  })

  it.each([
    ['another method of that path', 'GET', '/hot', 404, '404 Not Found'],
    ['what only begins like it', 'POST', '/hot/', 404, '404 Not Found'],
    ['a fixed path added later', 'GET', '/late', 200, 'late'],
    ['a fixed path beside a parameter', 'GET', '/records/keys', 200, 'keys'],
    ['a parameter', 'GET', '/records/7', 200, 'record 7'],
  ])(
    'takes everything else through the middleware: %s',
    async (_what, method, path, status, text) => {
      const { app, seen } = appOf()
      const answer = await app.request(path, { method })
      expect([answer.status, await answer.text()]).toEqual([status, text])
      expect(seen).toEqual([path])
    },
  )

  it('keeps what was added first where a fixed path is added twice', async () => {
    const app = new Hono({ router: createRouter() })
    app.get('/twice', (c) => c.text('first'))
    app.get('/twice', (c) => c.text('second'))
    expect(await (await app.request('/twice')).text()).toBe('first')
  })
})
