import { serve } from '@hono/node-server'
import { betterAuth } from 'better-auth'
import { getMigrations } from 'better-auth/db/migration'
import { genericOAuth } from 'better-auth/plugins'
import { Hono } from 'hono'
import pg from 'pg'
import { serveQuestions } from './child.ts'

/**
 * What people would pick today for the same work: better-auth's `getAccessToken` behind a Hono route, on PostgreSQL, tokens
 * encrypted. Its own caller is a session cookie; calling the server API directly is its cheapest way in.
 */
const people = Number(process.env['PEOPLE'] ?? 1000)
const accessToken = 'x'.repeat(Number(process.env['TOKEN_LENGTH'] ?? 800))
const pool = new pg.Pool({ connectionString: process.env['DATABASE_URL'], max: 10 })
const auth = betterAuth({
  baseURL: 'http://127.0.0.1',
  secret: 'a-secret-of-the-bench-and-of-nothing-else',
  database: pool,
  account: { encryptOAuthTokens: true },
  logger: { disabled: true },
  plugins: [
    genericOAuth({
      config: [
        {
          providerId: 'files',
          clientId: 'bench',
          clientSecret: 'bench',
          authorizationUrl: 'http://127.0.0.1/authorize',
          tokenUrl: 'http://127.0.0.1/token',
        },
      ],
    }),
  ],
})

const { runMigrations } = await getMigrations(auth.options)
await runMigrations()
const context = await auth.$context
const { setTokenUtil } = await import(
  new URL('./node_modules/better-auth/dist/oauth2/utils.mjs', import.meta.url).href
)
const accounts: { readonly userId: string; readonly accountId: string }[] = []
for (let person = 0; person < people; person += 1) {
  const user = await context.internalAdapter.createUser(
    { email: `person-${person}@example.com`, name: 'Person', emailVerified: true },
    { source: { method: 'bench' } } as never,
  )
  const account = await context.internalAdapter.createAccount({
    userId: user.id,
    providerId: 'files',
    accountId: `files-${person}`,
    accessToken: await setTokenUtil(accessToken, context),
    accessTokenExpiresAt: new Date(Date.now() + 3_600_000),
  })
  accounts.push({ userId: user.id, accountId: account.id })
}

const app = new Hono().post('/api/v1/resolve', async (c) => {
  const { person } = (await c.req.json()) as { person: number }
  const body = accounts[person % accounts.length]
  if (body === undefined) throw new Error('nobody is stored')
  const tokens = await auth.api.getAccessToken({ body })
  return c.json({
    header: 'Authorization',
    value: `Bearer ${tokens.accessToken}`,
    expires_at: tokens.accessTokenExpiresAt,
  })
})

const server = serve({ fetch: app.fetch, port: 0, hostname: '127.0.0.1' }, ({ port }) =>
  serveQuestions(port, {}),
)
process.on('SIGTERM', () => {
  server.close()
  void pool.end().then(() => process.exit(0))
})
