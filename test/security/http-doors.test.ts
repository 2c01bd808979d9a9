import { describe, expect, it } from 'vitest'
import {
  ada,
  adaToken,
  createHttpRoom,
  credentialOfAda,
  type HttpRoom,
  serviceKey,
} from '../support/http-room.ts'

/** Doors that anybody may come through; whatever is added here was decided, not forgotten. */
const open = [
  'GET /',
  'GET /.well-known/oauth-protected-resource',
  'GET /.well-known/oauth-protected-resource/:path{.+}',
  'GET /assets/:asset',
  'GET /docs',
  'GET /healthz',
  'GET /login',
  'GET /metrics',
  'GET /oauth-client/:upstream',
  'GET /openapi.json',
  'GET /readyz',
  'GET /signed-out',
  'OPTIONS /.well-known/oauth-protected-resource',
  'OPTIONS /.well-known/oauth-protected-resource/:path{.+}',
  // Without a live session there is nothing to end.
  'POST /logout',
]

/** Pages: a browser without a session is sent to sign in, and sees nothing. */
const signsIn = ['GET /activity', 'GET /connect/:ticket', 'GET /connections']

/** Refused without the cookie of the browser that began the sign-in. */
const returns = ['GET /login/callback']

function doorsOf({ app }: HttpRoom) {
  const doors = app.routes
    .filter(({ method }) => method !== 'ALL')
    .map(({ method, path }) => {
      const name = `${method} ${path.replace(/^\/assets\/.+/, '/assets/:asset')}`
      const address = path
        .replace(':path{.+}', 'mcp/files')
        .replace(':upstream', 'files')
        .replace(':id', '0194c0de-0000-7000-8000-00000000000a')
        .replace(':ticket', 'CNRY-ticket')
      return { name, method, address }
    })
  return [...new Map(doors.map((door) => [door.name, door])).values()]
}

const proofs: [string, Record<string, string>][] = [
  ['nothing', {}],
  ['garbage', { authorization: 'Bearer CNRY-garbage' }],
  ['an expired token', { authorization: 'Bearer CNRY-expired' }],
  ['Basic', { authorization: 'Basic YWRhOmFkYQ==' }],
  ['an unknown session', { cookie: '__Host-onbehalf_session=CNRY-forged' }],
  ['a token in a header of another name', { 'x-access-token': adaToken, 'x-user': 'ada' }],
]

describe('T13: every door is shut by default', () => {
  const http = createHttpRoom()
  const doors = doorsOf(http)

  it('knows every door by name', () => {
    const names = doors.map(({ name }) => name)
    expect(names.length).toBeGreaterThan(20)
    for (const name of [...open, ...signsIn, ...returns]) expect(names).toContain(name)
  })

  const shut = doors.filter(({ name }) => !open.includes(name))

  it.each(shut.flatMap((door) => proofs.map(([proof, headers]) => ({ ...door, proof, headers }))))(
    '$name with $proof',
    async ({ name, method, address, headers }) => {
      const { app, room } = createHttpRoom()

      const response = await app.request(address, { method, headers })
      const text = await response.text()
      if (signsIn.includes(name)) {
        expect(response.status).toBe(303)
        expect(response.headers.get('location')).toMatch(/^https:\/\/login\.example\.com\//)
        expect(text).toBe('')
      } else {
        expect(response.status).toBe(401)
        expect(text).not.toMatch(/CNRY|ada@/)
      }
      expect(room.asked).toEqual([])
      expect(room.disconnected).toEqual([])
      expect(room.linked).toEqual([])
      expect(room.completed).toEqual([])
      expect(room.filters).toEqual([])
      expect(room.sessions.size).toBe(0)
    },
  )

  it.each(
    shut
      .filter(({ address }) => address.startsWith('/api/'))
      .flatMap(({ method, address }) =>
        ['%2f', '/', '//', ';x', '/.', '%00', '%0a', '%0d', '%e2%80%a8', '?access_token='].map(
          (tail) => ({ method, address: address + tail }),
        ),
      ),
  )('P26: $method $address opens nothing either', async ({ method, address }) => {
    const { app, room } = createHttpRoom()
    for (const path of [address, address.replace('/api/', '/API/'), `/x/..${address}`]) {
      const { status } = await app.request(path, { method })
      expect([400, 401, 404, 405]).toContain(status)
    }
    expect(room.asked).toEqual([])
    expect(room.disconnected).toEqual([])
  })
})

describe('C13: nothing that was sent comes back', () => {
  const payloads = [
    '<script>alert(1)</script>',
    '"><img src=x onerror=alert(1)>',
    "'-alert(1)-'",
    'javascript:alert(1)//',
    '</title><svg onload=alert(1)>',
    '{{7*7}}',
    '\u2028alert(1)',
    '%3Cscript%3Ealert(1)%3C/script%3E',
  ]
  const marks = /alert\(1\)|alert%281%29|\{\{7\*7\}\}/

  it.each(payloads)('%j in every parameter of a page', async (payload) => {
    const { app, room } = createHttpRoom()
    const cookie = room.cookieOf({ ...ada, admin: true })
    const sent = encodeURIComponent(payload)
    const paths = [
      `/connections?upstream=${sent}&error=${sent}`,
      `/connections?upstream=files&error=${sent}&error_description=${sent}`,
      `/activity?user_id=${sent}&outcome=${sent}`,
      `/activity?${sent}=1`,
      `/callback/${sent}?code=${sent}&state=${sent}`,
      `/connect/${sent}`,
      `/login?return_to=${sent}`,
      `/${sent}`,
      `/api/v1/connections/${sent}`,
      `/api/v1/activity?${sent}=${sent}`,
    ]
    for (const path of paths) {
      for (const accept of ['text/html', '*/*']) {
        const headers = { cookie, accept, 'x-request-id': sent, origin: sent, referer: sent }
        const response = await app.request(path, { headers })
        expect(await response.text(), path).not.toMatch(marks)
        for (const [name, value] of response.headers) {
          expect(value, `${path} ${name}`).not.toMatch(marks)
        }
      }
    }
  })
})

describe('G1: secrets of the callers', () => {
  it('are in no answer, no log and no record but the credential in the answer of resolve', async () => {
    const { app, room } = createHttpRoom()
    const seen: string[] = []
    const requests: [string, string, Record<string, string>, string?][] = [
      ['GET', '/api/v1/me', { authorization: `Bearer ${adaToken}` }],
      ['GET', '/api/v1/connections', { authorization: `Bearer ${adaToken}` }],
      ['GET', '/api/v1/me', { authorization: `Bearer ${serviceKey}` }],
      ['POST', '/api/v1/resolve', { authorization: `Bearer ${adaToken}` }, '{}'],
      [
        'POST',
        '/api/v1/resolve',
        { authorization: `Bearer ${serviceKey}` },
        JSON.stringify({ upstream: 'files', subject_token: 'CNRY-expired' }),
      ],
      [
        'POST',
        '/api/v1/resolve',
        { authorization: `Bearer ${serviceKey}` },
        `{"upstream":"files","subject_token":"${adaToken}`,
      ],
    ]
    for (const [method, path, headers, body] of requests) {
      const init = body === undefined ? { method, headers } : { method, headers, body }
      const response = await app.request(path, init)
      seen.push(await response.text(), JSON.stringify([...response.headers]))
    }
    seen.push(JSON.stringify(room.logged), JSON.stringify(room.refusals))
    expect(seen.join('\n')).not.toContain('CNRY')
    // The scan would find one.
    const response = await app.request('/api/v1/resolve', {
      method: 'POST',
      headers: { authorization: `Bearer ${serviceKey}` },
      body: JSON.stringify({ upstream: 'files', subject_token: adaToken }),
    })
    const text = await response.text()
    expect(text).toContain(credentialOfAda)
    expect(text.replace(credentialOfAda, '')).not.toContain('CNRY')
  })
})
