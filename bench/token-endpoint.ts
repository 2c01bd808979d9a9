import { randomBytes } from 'node:crypto'
import { createServer, type Server } from 'node:http'

/** A token endpoint that answers every exchange at once, or after a while, and counts. It checks nothing: it is not measured. */
export async function startTokenEndpoint(options: { readonly tokenLength: number }): Promise<{
  readonly url: string
  requests(): number
  delayMs: number
  close(): void
}> {
  let requests = 0
  const endpoint = { delayMs: 0 }
  const server: Server = createServer((request, response) => {
    request.resume()
    request.on('end', () => {
      requests += 1
      setTimeout(() => {
        response.setHeader('content-type', 'application/json')
        response.end(
          JSON.stringify({
            access_token: randomBytes(options.tokenLength)
              .toString('base64url')
              .slice(0, options.tokenLength),
            issued_token_type: 'urn:ietf:params:oauth:token-type:access_token',
            token_type: 'Bearer',
            expires_in: 86_400,
          }),
        )
      }, endpoint.delayMs)
    })
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  return Object.assign(endpoint, {
    url: `http://127.0.0.1:${port}`,
    requests: () => requests,
    close: () => void server.close(),
  })
}
