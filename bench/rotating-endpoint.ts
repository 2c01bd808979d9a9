import { randomBytes } from 'node:crypto'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

/**
 * A token endpoint with strict rotation and reuse detection (RFC 9700 §4.14.2): a refresh token works once, and when it comes again the person's
 * grant is dead. It answers after `latencyMs`, the server's own time.
 */
export async function startRotatingEndpoint(options: { readonly latencyMs: number }): Promise<{
  readonly url: string
  /** A new person's refresh token. */
  register(person: string): string
  requests(person: string): number
  isLost(person: string): boolean
  /** Called when a request has arrived, before it is carried out. */
  onArrival: (() => void) | undefined
  close(): void
}> {
  const grants = new Map<string, { current: string; requests: number; lost: boolean }>()
  const mint = (person: string) => `${person}.${randomBytes(24).toString('base64url')}`

  function redeem(refreshToken: string): { status: number; body: object } {
    const person = refreshToken.split('.')[0] ?? ''
    const grant = grants.get(person)
    if (grant === undefined) return { status: 400, body: { error: 'invalid_grant' } }
    grant.requests += 1
    if (grant.current !== refreshToken) grant.lost = true
    if (grant.lost) return { status: 400, body: { error: 'invalid_grant' } }
    grant.current = mint(person)
    return {
      status: 200,
      body: {
        access_token: mint(person),
        refresh_token: grant.current,
        token_type: 'Bearer',
        expires_in: 3600,
      },
    }
  }

  const server = createServer((request, response) => {
    let text = ''
    request.on('data', (chunk: Buffer) => {
      text += chunk.toString()
    })
    request.on('end', () => {
      endpoint.onArrival?.()
      const { status, body } = redeem(new URLSearchParams(text).get('refresh_token') ?? '')
      setTimeout(() => {
        response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
      }, options.latencyMs)
    })
  })
  server.keepAliveTimeout = 60_000
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', 4096, resolve))
  const { port } = server.address() as AddressInfo
  const endpoint = {
    url: `http://127.0.0.1:${port}`,
    register(person: string) {
      const current = mint(person)
      grants.set(person, { current, requests: 0, lost: false })
      return current
    },
    requests: (person: string) => grants.get(person)?.requests ?? 0,
    isLost: (person: string) => grants.get(person)?.lost ?? true,
    onArrival: undefined as (() => void) | undefined,
    close() {
      server.closeAllConnections()
      server.close()
    },
  }
  return endpoint
}
