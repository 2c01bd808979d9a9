import { randomUUID } from 'node:crypto'
import { serve } from '@hono/node-server'
import { Hono } from 'hono'
import { connectTo } from './database.ts'
import { lockings } from './storm-lockings.ts'
import { answerStorms, waitToGo } from './storm-child.ts'

/** One of the lockings that people use, alone: no identity, no sealing, no record. Over HTTP it stands behind a bare route. */
const sql = connectTo(process.env['DATABASE_URL'] ?? '', 10)
let isHeld = false
const locking = lockings[process.env['LOCKING'] ?? '']
if (locking === undefined) throw new Error('no such locking')
const acquire = await locking({
  sql,
  tokenUrl: `${process.env['TOKEN_ENDPOINT']}/token`,
  owner: randomUUID(),
  async beforeSend() {
    if (!isHeld) return
    isHeld = false
    const [first] = await sql`DELETE FROM pause RETURNING 1`
    if (first !== undefined) await waitToGo()
  },
})

const app = new Hono().post('/api/v1/resolve', async (c) => {
  const { subject_token: person } = await c.req.json<{ subject_token: string }>()
  return c.json({ header: 'Authorization', value: `Bearer ${await acquire(person)}` })
})
app.onError((_error, c) => c.json({ code: 'failed' }, 503))

const server = serve({ fetch: app.fetch, port: 0, hostname: '127.0.0.1' }, ({ port }) =>
  answerStorms(port, {
    acquire,
    holdFirst() {
      isHeld = true
    },
    read: (person) => sql`SELECT access_token FROM peer WHERE person = ${person}`,
  }),
)
process.on('SIGTERM', () => {
  server.close()
  void sql.end({ timeout: 1 }).then(() => process.exit(0))
})
