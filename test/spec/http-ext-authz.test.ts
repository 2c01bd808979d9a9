import { describe, expect, it } from 'vitest'
import { BrokerError } from '../../src/core/errors.ts'
import {
  ada,
  adaToken,
  createHttpRoom,
  credentialOfAda,
  narrowKey,
  problemOf,
  serviceKey,
  upstream,
} from '../support/http-room.ts'

describe('external authorization, for other gateways', () => {
  type Sent = {
    readonly path?: string
    readonly method?: string
    readonly key?: string | undefined
    readonly token?: string | undefined
    readonly headers?: Record<string, string>
  }

  function ask(room: ReturnType<typeof createHttpRoom>, sent: Sent = {}) {
    const { path = '/ext-authz/files', method = 'GET' } = sent
    const key = 'key' in sent ? sent.key : serviceKey
    const token = 'token' in sent ? sent.token : adaToken
    return room.app.request(path, {
      method,
      headers: {
        ...(key === undefined ? {} : { 'x-onbehalf-service-key': key }),
        ...(token === undefined ? {} : { authorization: `Bearer ${token}` }),
        ...sent.headers,
      },
    })
  }

  it.each(['GET', 'POST', 'HEAD', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'PROPFIND'])(
    'gives the credential in the header that is configured, to %s with any path behind it',
    async (method) => {
      const answer = await ask(createHttpRoom(), { method, path: '/ext-authz/files/any/path?x=1' })
      expect(answer.status).toBe(200)
      expect(answer.headers.get('authorization')).toBe(`Bearer ${credentialOfAda}`)
      expect(answer.headers.get('cache-control')).toBe('no-store')
      expect(await answer.text()).toBe('')
    },
  )

  it('resolves for the person and the service, and never reads what the gateway forwards of the request', async () => {
    const room = createHttpRoom()
    await ask(room, {
      headers: {
        'x-original-url': '/ext-authz/calendar',
        'x-original-method': 'DELETE',
        'x-forwarded-user': 'bob',
        'x-forwarded-uri': '/ext-authz/calendar',
      },
    })
    expect(room.room.asked).toMatchObject([
      {
        person: { userId: 'ada' },
        actor: { kind: 'service', id: 'edge' },
        upstream: { name: 'files' },
        rejected: undefined,
      },
    ])
    expect(room.room.asked[0]?.subjectToken?.reveal()).toBe(adaToken)
  })

  it.each([
    ['no service key', { key: undefined }, 401, 'unauthenticated'],
    ['a wrong service key', { key: 'x'.repeat(40) }, 401, 'unauthenticated'],
    ['no person', { token: undefined }, 401, 'invalid_subject_token'],
    ['a refused token', { token: 'CNRY-expired' }, 401, 'invalid_subject_token'],
    ['a token with too little scope', { token: 'CNRY-narrow' }, 403, 'insufficient_scope'],
    ['a service key as the person', { token: serviceKey }, 401, 'invalid_subject_token'],
    ['an issuer that cannot be asked', { token: 'CNRY-outage' }, 503, 'issuer_unavailable'],
    ['an unknown upstream', { path: '/ext-authz/nope' }, 403, 'unknown_upstream'],
    ['an upstream that is not the service’s', { key: narrowKey }, 403, 'upstream_not_allowed'],
  ] as const)('%s: %o is %i %s', async (_what, sent, status, code) => {
    const room = createHttpRoom()
    const answer = await ask(room, sent)
    expect([answer.status, answer.headers.get('x-onbehalf-error')]).toEqual([status, code])
    expect(await problemOf(answer)).toMatchObject({ code, status })
    expect(answer.headers.get('authorization')).toBeNull()
    expect(room.room.asked).toEqual([])
    // A caller without a key is nobody, and leaves no record; every other call leaves one.
    expect(room.room.refusals).toHaveLength(code === 'unauthenticated' ? 0 : 1)
  })

  it('a token with too little scope is told which, as at every other door (RFC 6750 §3.1)', async () => {
    const room = createHttpRoom()
    const answer = await ask(room, { token: 'CNRY-narrow' })
    expect(answer.headers.get('www-authenticate')).toBe(
      'Bearer scope="broker:use", error="insufficient_scope"',
    )
    expect(room.room.refusals).toMatchObject([
      { person: undefined, upstream: { name: 'files' }, reason: 'insufficient_scope' },
    ])
  })

  it('a token for the person that is not one header is refused', async () => {
    const answer = await ask(createHttpRoom(), {
      token: undefined,
      headers: { authorization: `Bearer ${adaToken}, Bearer x` },
    })
    expect(answer.status).toBe(401)
  })

  it.each([
    ['connect_required', 403],
    ['policy_denied', 403],
    ['upstream_misconfigured', 503],
    ['upstream_unavailable', 503],
    ['storage_unavailable', 503],
    ['credential_corrupt', 503],
    ['internal_error', 503],
  ] as const)('%s of the resolver is %i', async (code, status) => {
    const room = createHttpRoom()
    const connectUrl = 'https://broker.example.com/connect/t'
    room.room.resolve = () => {
      throw new BrokerError(
        code,
        code === 'connect_required' ? { reason: 'not_connected', connectUrl } : {},
      )
    }
    const answer = await ask(room)
    expect(answer.status).toBe(status)
    expect(answer.headers.get('x-onbehalf-error')).toBe(code)
    const link = answer.headers.get('x-onbehalf-connect-url')
    expect(link).toBe(code === 'connect_required' ? connectUrl : null)
  })

  it.each([
    [
      'a wrong service key',
      '/ext-authz/files',
      { key: 'x'.repeat(40) },
      'Bearer scope="broker:use"',
    ],
    ['a wrong key for no upstream', '/ext-authz/nope', { key: 'x'.repeat(40) }, 'Bearer'],
  ] as const)('%s: the 401 names no document of our own API', async (_what, path, sent, header) => {
    const answer = await ask(createHttpRoom(), { path, ...sent })
    expect(answer.status).toBe(401)
    expect(answer.headers.get('www-authenticate')).toBe(header)
  })

  it('P2: a person’s token or a key in a header of another name opens nothing, and nothing sent comes back', async () => {
    const room = createHttpRoom()
    const sent = {
      'x-forwarded-access-token': adaToken,
      'x-original-authorization': `Bearer ${adaToken}`,
      x_onbehalf_service_key: serviceKey,
      cookie: room.room.cookieOf({ ...ada, admin: true }),
      'x-evil': 'CNRY-evil',
    }
    const noPerson = await ask(room, { token: undefined, headers: sent })
    const noKey = await ask(room, { key: undefined, headers: sent })
    expect([noPerson.status, noKey.status]).toEqual([401, 401])
    for (const answer of [noPerson, noKey]) {
      const text = JSON.stringify([...answer.headers]) + (await answer.text())
      expect(text).not.toContain('CNRY')
    }
    expect(room.room.asked).toEqual([])
  })

  it('takes a body along without reading it', async () => {
    const { app } = createHttpRoom()
    let pulled = 0
    const body = new ReadableStream<Uint8Array>(
      {
        pull(controller) {
          pulled += 1
          controller.enqueue(new Uint8Array(1024))
        },
      },
      { highWaterMark: 0 },
    )
    const init = {
      method: 'POST',
      headers: { 'x-onbehalf-service-key': serviceKey, authorization: `Bearer ${adaToken}` },
      body,
      duplex: 'half' as const,
    }
    const answer = await app.request('/ext-authz/files', init)
    expect([answer.status, pulled]).toEqual([200, 0])
  })

  it('the challenge names the document of the address where people reach the upstream, and none where there is none', async () => {
    const inside = await ask(createHttpRoom(), { token: undefined })
    expect(inside.headers.get('www-authenticate')).toBe('Bearer scope="broker:use"')

    const room = createHttpRoom()
    room.room.upstreams.set(
      'files',
      upstream('files', { externalUrl: 'https://edge.example.com/files' }),
    )
    const outside = await ask(createHttpRoom({ upstreams: room.room.upstreams }), {
      token: undefined,
    })
    expect(outside.headers.get('www-authenticate')).toContain(
      'resource_metadata="https://broker.example.com/.well-known/oauth-protected-resource/ext-authz/files"',
    )
  })
})
