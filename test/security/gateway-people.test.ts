import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startTestBroker, type TestBroker } from '../support/broker.ts'
import { type PlainUpstream, startPlainUpstream } from '../support/plain-upstream.ts'
import { untrustedCertificate } from '../support/untrusted-certificate.ts'

type Call = { readonly person: string; readonly nonce: string }

describe('people who call through the gateway', () => {
  let upstream: PlainUpstream
  let broker: TestBroker
  const people = ['ada', 'grace', 'linus']

  beforeAll(async () => {
    upstream = await startPlainUpstream()
    broker = await startTestBroker({
      filesUrl: `${upstream.url}/mcp`,
      change(config) {
        config.upstreams.reports['url'] = `${upstream.url}/base`
        config['allowed_origins'] = ['https://client.example.com']
      },
    })
  })
  beforeEach(() => {
    upstream.answerWith(undefined)
  })
  afterAll(async () => {
    await broker.stop()
    await upstream.stop()
  })

  it('P9: never get another’s credential or answer, whoever goes away and whatever breaks', async () => {
    const tokens = new Map<string, string>()
    for (const person of people) tokens.set(person, await broker.tokenOf(person))
    /** Which call was made with which credential. */
    const used: (Call & { readonly subject: unknown })[] = []
    let count = 0
    upstream.answerWith((request, response) => {
      count += 1
      const { searchParams } = new URL(request.url ?? '/', upstream.url)
      const [person = '', nonce = ''] = (searchParams.get('of') ?? '').split('.')
      used.push({ person, nonce, subject: subjectOf(request.headers.authorization) })
      if (count % 11 === 0) return request.socket.destroy()
      response.writeHead(200, { 'cache-control': 'public, max-age=600' })
      response.write(`${person}.`)
      if (count % 13 === 0) return setTimeout(() => request.socket.destroy(), 1)
      return setTimeout(() => response.end(nonce), count % 7)
    })

    let whole = 0
    async function callAs({ person, nonce }: Call, at: number): Promise<void> {
      const leaver = at % 3 === 0 ? AbortSignal.timeout(at % 10) : undefined
      try {
        const answer = await fetch(`${broker.url}/proxy/reports/x?of=${person}.${nonce}`, {
          headers: { authorization: `Bearer ${tokens.get(person)}` },
          ...(leaver === undefined ? {} : { signal: leaver }),
        })
        const text = await answer.text()
        if (answer.status !== 200) return
        whole += 1
        expect(text).toBe(`${person}.${nonce}`)
      } catch (error) {
        // Gone, or cut: no answer is no wrong one.
        if (error instanceof Error && error.name === 'AssertionError') throw error
      }
    }
    const rounds = 20
    for (let round = 0; round < rounds; round += 1) {
      const calls = Array.from({ length: 30 }, (_, at) => ({
        person: people[at % people.length] ?? '',
        nonce: `${round}-${at}`,
      }))
      await Promise.all(calls.map((call, at) => callAs(call, round + at)))
    }
    expect(whole).toBeGreaterThan(200)
    expect(used.length).toBeGreaterThan(350)
    const subjects = new Map<string, Set<unknown>>()
    for (const { person, subject } of used) {
      subjects.set(person, (subjects.get(person) ?? new Set()).add(subject))
    }
    for (const person of people) {
      expect([...(subjects.get(person) ?? [])]).toEqual([expect.stringMatching(`^${person}`)])
    }
  })

  it('P15: forty calls whose credential is refused at once cost one renewal, and all are answered', async () => {
    await broker.connect('ada')
    const token = await broker.tokenOf('ada')
    let refused: string | undefined
    upstream.answerWith((request, response) => {
      refused ??= request.headers.authorization
      const isOld = request.headers.authorization === refused
      response.writeHead(isOld ? 401 : 200, { 'content-type': 'application/json' })
      response.end(JSON.stringify({ jsonrpc: '2.0', id: 1, result: { supportedVersions: [] } }))
    })
    const renewals = () =>
      broker.authorizationServer.requests({ grantType: 'refresh_token' }).length
    const before = renewals()
    const message = {
      jsonrpc: '2.0',
      id: 1,
      method: 'tools/call',
      params: {
        name: 'x',
        _meta: { 'io.modelcontextprotocol/protocolVersion': '2026-07-28' },
      },
    }
    const answers = await Promise.all(
      Array.from({ length: 40 }, () =>
        fetch(`${broker.url}/mcp/files`, {
          method: 'POST',
          headers: {
            authorization: `Bearer ${token}`,
            'mcp-protocol-version': '2026-07-28',
            'mcp-method': 'tools/call',
            'mcp-name': 'x',
          },
          body: JSON.stringify(message),
        }),
      ),
    )
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200))
    expect(renewals() - before).toBe(1)
    expect(broker.authorizationServer.reuses()).toBe(0)
  })

  it.each(['/proxy/reports/x', '/mcp/files'])(
    'P1: %s: the caller’s token goes up under no name, in no spelling; the credential does, once',
    async (path) => {
      const token = await broker.tokenOf('grace')
      if (path === '/mcp/files') await broker.connect('grace')
      const names = [
        'X-Forwarded-Access-Token',
        'X-Auth-Request-Access-Token',
        'Proxy-Authorization',
        'X-Api-Key',
        'X-Amz-Security-Token',
        'X-Original-Authorization',
        'X-Authorization',
        'AUTHORIZATION_',
        'X_Authorization',
        'X-Access-Token',
        'X-Token',
        'Cookie',
        'DPoP',
        'X-Goog-Iap-Jwt-Assertion',
        'Cf-Access-Jwt-Assertion',
        'Mcp-Param-Token',
      ]
      const before = upstream.hits.length
      await fetch(`${broker.url}${path}`, {
        method: 'POST',
        headers: {
          ...Object.fromEntries(
            names.map((name, at) => [name, at % 2 ? token : `Bearer ${token}`]),
          ),
          authorization: `bearer ${token}`,
          'x-kept': 'yes',
          'mcp-protocol-version': '2026-07-28',
          'mcp-method': 'tools/list',
        },
        body: JSON.stringify({
          jsonrpc: '2.0',
          id: 1,
          method: 'tools/list',
          params: { _meta: { 'io.modelcontextprotocol/protocolVersion': '2026-07-28' } },
        }),
      })
      const hits = upstream.hits.slice(before)
      expect(hits.length).toBeGreaterThan(0)
      for (const { rawHeaders } of hits) {
        expect(JSON.stringify(rawHeaders)).not.toContain(token)
        const keys = rawHeaders.filter((_, at) => at % 2 === 0).map((name) => name.toLowerCase())
        expect(keys.filter((name) => name === 'authorization')).toHaveLength(1)
      }
      expect(hits.at(-1)?.headers['x-kept']).toBe('yes')
      expect(subjectOf(hits.at(-1)?.headers.authorization)).toMatch(/^grace/)
    },
  )
})

describe('an upstream that must not be reached', () => {
  let broker: TestBroker
  let received = 0
  const tls = createTlsServer(untrustedCertificate, (_request, response) => {
    received += 1
    response.end('ok')
  })
  const unreachable = ['certificate', 'closed', 'private', 'metadata', 'nameless']

  beforeAll(async () => {
    await new Promise<void>((resolve) => {
      tls.listen(0, '127.0.0.1', resolve)
    })
    const { port } = tls.address() as AddressInfo
    broker = await startTestBroker({
      change(config) {
        const { credential } = config.upstreams.reports
        const urls = {
          certificate: `https://127.0.0.1:${port}`,
          closed: 'http://127.0.0.1:9',
          private: 'https://10.1.2.3',
          metadata: 'https://169.254.169.254/latest',
          nameless: 'https://nowhere.invalid',
        }
        for (const [name, url] of Object.entries(urls)) {
          const timeouts = { connect: '20s', head: '20s' }
          Object.assign(config.upstreams, { [name]: { url, kind: 'http', credential, timeouts } })
        }
      },
    })
  })
  afterAll(async () => {
    await broker.stop()
    tls.close()
  })

  it.each(unreachable)(
    'P21, P23: %s: the answer says that it is not to be had, and nothing of where or why',
    async (name) => {
      const answer = await fetch(`${broker.url}/proxy/${name}/x`, {
        headers: { authorization: `Bearer ${await broker.tokenOf('ada')}` },
      })
      const body = (await answer.json()) as Record<string, unknown>
      expect([502, 503]).toContain(answer.status)
      expect(body['code']).toBe('upstream_unavailable')
      const said = JSON.stringify([...answer.headers, body]).replaceAll(broker.url, '')
      expect(said).not.toMatch(
        /127\.0\.0\.1|10\.1\.2|169\.254|nowhere|\bE[A-Z]{5,}\b|certificate|self.signed|\.ts\b|undici|\bat \//,
      )
      // The handshake fails before anything is said.
      expect(received).toBe(0)
    },
  )
})

function subjectOf(authorization: string | undefined): unknown {
  const payload = authorization?.split('.')[1] ?? ''
  return (JSON.parse(Buffer.from(payload, 'base64url').toString()) as { sub?: unknown }).sub
}
