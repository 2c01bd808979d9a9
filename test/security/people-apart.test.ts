import { exportJWK, type GenerateKeyPairResult, generateKeyPair, SignJWT } from 'jose'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import {
  byPath,
  json,
  type ScriptedServer,
  startScriptedServer,
} from '../support/scripted-server.ts'

/** Two people never meet, whatever they are called: a person is (issuer, user id), compared as it is. */

const ids = (
  'a aa a:b 1:a 10: /a A a/b .. %61 a\'b a"b a\\b {a} a,b __proto__ constructor toString ' +
  'a\u00e9 ae\u0301 a\u200b \u0430 \u{1d4b6}'
)
  .split(' ')
  .concat('a ', 'x'.repeat(255))

let provider: ScriptedServer
let exchange: ScriptedServer
let broker: TestBroker
let signingKey: GenerateKeyPairResult['privateKey']
/** One issuer is the beginning of the other, and what follows is the beginning of an id. */
let issuers: readonly string[]

beforeAll(async () => {
  const pair = await generateKeyPair('ES256')
  signingKey = pair.privateKey
  const key = { ...(await exportJWK(pair.publicKey)), kid: 'k', alg: 'ES256', use: 'sig' }
  provider = await startScriptedServer(byPath({ '/jwks': json({ keys: [key] }) }))
  issuers = [provider.origin, `${provider.origin}/a`]
  exchange = await startScriptedServer((request, response) => {
    const named = credentialFor(request.form.get('subject_token') ?? '')
    // Slow enough for all of them to be under way together.
    setTimeout(
      () => json({ access_token: named, token_type: 'Bearer', expires_in: 300 })(request, response),
      50,
    )
  })
  broker = await startTestBroker({
    change(config) {
      for (const issuer of issuers) {
        const jwks = `${provider.origin}/jwks`
        config.identity.issuers.push({ issuer, jwks_uri: jwks, algorithms: ['ES256'] })
      }
      const loginIssuer = config.identity.login['issuer']
      config.identity['admins'] = {
        issuer: loginIssuer,
        roles: ['onbehalf-admin'],
        users: ['linus'],
      }
      config.upstreams.reports.credential = {
        mode: 'token_exchange',
        token_endpoint: `${exchange.origin}/token`,
        client_id: 'onbehalf',
        client_secret: 'of-a-test',
      }
    },
  })
})
afterAll(async () => {
  await broker.stop()
  await exchange.close()
  await provider.close()
})

function credentialFor(subjectToken: string): string {
  return `for-${subjectToken.split('.').at(-1)}`
}

function tokenOf(
  issuer: string,
  sub: string,
  claims: Record<string, unknown> = {},
): Promise<string> {
  return new SignJWT({ ...claims })
    .setProtectedHeader({ alg: 'ES256', kid: 'k', typ: 'at+jwt' })
    .setIssuer(issuer)
    .setSubject(sub)
    .setAudience(broker.url)
    .setIssuedAt()
    .setExpirationTime('5m')
    .sign(signingKey)
}

async function callAs(
  token: string,
  method: string,
  path: string,
): Promise<{ status: number; body: unknown }> {
  const answer = await fetch(broker.url + path, {
    method,
    headers: { authorization: `Bearer ${token}` },
  })
  const text = await answer.text()
  return { status: answer.status, body: text === '' ? undefined : JSON.parse(text) }
}

describe('X4: exchanges of many people at once', () => {
  it('give each their own credential, also from the store and after another one left', async () => {
    const names = issuers.flatMap((issuer) => ids.map((id) => ({ issuer, id })))
    const people = await Promise.all(
      names.map(async ({ issuer, id }) => ({ issuer, id, token: await tokenOf(issuer, id) })),
    )
    const resolveAll = (
      of: typeof people,
      body: (one: (typeof people)[number]) => Record<string, unknown>,
    ) =>
      Promise.all(
        of.map(async (one) => {
          const { body: answer } = await broker.resolve({ upstream: 'reports', ...body(one) })
          expect(answer['value'], `${one.issuer} ${one.id}`).toBe(
            `Bearer ${credentialFor(one.token)}`,
          )
        }),
      )
    const fourTimes = people.flatMap((one) => [one, one, one, one])
    await resolveAll(fourTimes, ({ token }) => ({ subject_token: token }))
    expect(exchange.requests).toHaveLength(people.length)
    await resolveAll(people, ({ issuer, id }) => ({ user: { issuer, id } }))

    const [gone, ...rest] = people
    if (gone === undefined) throw new Error('nobody is there')
    expect((await callAs(gone.token, 'DELETE', '/api/v1/connections/reports')).status).toBe(204)
    const user = { issuer: gone.issuer, id: gone.id }
    expect((await broker.resolve({ upstream: 'reports', user })).status).toBe(403)
    await resolveAll(rest, ({ issuer, id }) => ({ user: { issuer, id } }))
    expect(exchange.requests).toHaveLength(people.length)
  })
})

describe('T5, T9: the same user id at another issuer', () => {
  it('sees, gets and removes nothing of the person here, and is no admin', async () => {
    await broker.connect('ada')
    const [other = ''] = issuers
    const claims = { email: 'ada@example.test', roles: ['onbehalf-admin'] }
    const token = await tokenOf(other, 'ada', claims)
    expect(await callAs(token, 'GET', '/api/v1/connections/files')).toMatchObject({
      body: { status: 'not_connected', account: null, last_used_at: null },
    })
    expect((await callAs(token, 'DELETE', '/api/v1/connections/files')).status).toBe(204)
    expect((await broker.resolve({ upstream: 'files', subject_token: token })).status).toBe(403)
    expect(
      (await broker.resolve({ upstream: 'files', user: { issuer: other, id: 'ada' } })).status,
    ).toBe(403)
    expect((await broker.resolveAs('ada', 'files')).status).toBe(200)

    await broker.records(1)
    const here = broker.identityProvider.issuer
    const asked = `/api/v1/me/activity?issuer=${encodeURIComponent(here)}`
    expect(await callAs(token, 'GET', asked)).toMatchObject({ status: 200, body: { items: [] } })
    for (const id of ['ada', 'linus']) {
      const admin = await tokenOf(other, id, claims)
      expect(await callAs(admin, 'GET', '/api/v1/me')).toMatchObject({ body: { admin: false } })
      expect((await callAs(admin, 'GET', '/api/v1/activity')).status).toBe(403)
    }
  })

  it('an issuer that is only spelled alike is none', async () => {
    const { issuer } = broker.identityProvider
    const alike = [
      `${issuer}/`,
      issuer.toUpperCase(),
      ` ${issuer}`,
      issuer.replace('127.0.0.1', '127.1'),
      'http://127.0.0.1',
    ]
    for (const spelled of alike) {
      const answer = await broker.resolve({
        upstream: 'files',
        user: { issuer: spelled, id: 'ada' },
      })
      expect(answer.status, spelled).toBe(400)
    }
    for (const id of ['Ada', 'ada ', 'ad', 'adaa', '\u0430da', 'ada\u200b', '%61da']) {
      const answer = await broker.resolve({ upstream: 'files', user: { issuer, id } })
      expect(answer.status, id).toBe(403)
    }
  })
})
