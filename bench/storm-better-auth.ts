import { betterAuth } from 'better-auth'
import { getMigrations } from 'better-auth/db/migration'
import { genericOAuth } from 'better-auth/plugins'
import pg from 'pg'
import { answerStorms } from './storm-child.ts'

/** better-auth's `getAccessToken` on PostgreSQL, tokens encrypted, called by its server API: its cheapest way in. */
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
          clientSecret: 'bench-secret',
          authorizationUrl: 'http://127.0.0.1/authorize',
          tokenUrl: `${process.env['TOKEN_ENDPOINT']}/token`,
        },
      ],
    }),
  ],
})
if (process.env['MIGRATE'] !== undefined) {
  const { runMigrations } = await getMigrations(auth.options)
  await runMigrations()
}
const context = await auth.$context
const { setTokenUtil } = await import(
  new URL('./node_modules/better-auth/dist/oauth2/utils.mjs', import.meta.url).href
)

async function acquire(person: string): Promise<unknown> {
  const [userId = '', accountId = ''] = person.split(' ')
  return auth.api.getAccessToken({ body: { userId, accountId } } as never)
}

answerStorms(0, {
  acquire,
  read: acquire,
  async seed({ person, refreshToken, endsInSeconds }) {
    const user = await context.internalAdapter.createUser(
      { email: `${person}@example.com`, name: 'Person', emailVerified: true },
      { source: { method: 'bench' } } as never,
    )
    const account = await context.internalAdapter.createAccount({
      userId: user.id,
      providerId: 'files',
      accountId: person,
      accessToken: await setTokenUtil('an-old-access-token', context),
      refreshToken: await setTokenUtil(refreshToken, context),
      accessTokenExpiresAt: new Date(Date.now() + endsInSeconds * 1000),
      refreshTokenExpiresAt: new Date(Date.now() + 86_400_000),
    })
    return `${user.id} ${account.id}`
  },
})
process.on('SIGTERM', () => void pool.end().then(() => process.exit(0)))
