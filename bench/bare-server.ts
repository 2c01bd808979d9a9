import { serve } from '@hono/node-server'
import { Hono } from 'hono'
import { serveQuestions } from './child.ts'

/** What a Hono route costs that takes the same body and gives the same answer, and does nothing between. */
const answer = {
  header: 'Authorization',
  value: `Bearer ${'x'.repeat(Number(process.env['TOKEN_LENGTH'] ?? 800))}`,
  expires_at: '2030-01-01T00:00:00.000Z',
  fingerprint: 'x'.repeat(22),
  max_age: 0,
}

export const bareApp = new Hono().post('/api/v1/resolve', async (c) => {
  await c.req.json()
  return c.json(answer)
})

if (process.send !== undefined && process.argv[1]?.endsWith('bare-server.js')) {
  const server = serve({ fetch: bareApp.fetch, port: 0, hostname: '127.0.0.1' }, ({ port }) =>
    serveQuestions(port, {}),
  )
  process.on('SIGTERM', () => {
    server.close()
    process.exit(0)
  })
}
