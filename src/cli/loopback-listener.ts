import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { CommandFailure } from './cli-error.ts'

/** What came back from a sign-in. */
export type BrowserAnswer = {
  readonly parameters: URLSearchParams
  /** Shows the person, who looks at the browser now, whether it worked. */
  readonly show: (worked: boolean) => Promise<void>
}

/** A web server of one page, on this machine alone, to which a sign-in comes back (RFC 8252 §7.3). */
export interface LoopbackListener {
  readonly redirectUri: string
  /** The first answer with this state; others are refused and change nothing. @throws CommandFailure after that time */
  answer(state: string, withinMs: number): Promise<BrowserAnswer>
  close(): void
}

/** Port 0: any free one. @throws CommandFailure where it is taken */
export async function listenOnLoopback(port: number): Promise<LoopbackListener> {
  let expected:
    | { readonly state: string; readonly came: (answer: BrowserAnswer) => void }
    | undefined

  function handle(request: IncomingMessage, response: ServerResponse): void {
    const [path, query = ''] = (request.url ?? '').split('?', 2)
    if (path !== '/callback') return page(response, 404, texts.notHere)
    if (request.method !== 'GET') return page(response, 405, texts.notHere)
    const parameters = new URLSearchParams(query)
    // Any page in any browser here may send people to this address; only who was asked knows the state (RFC 6749 §10.12).
    if (expected === undefined || parameters.get('state') !== expected.state) {
      return page(response, 400, texts.notOurs)
    }
    const { came } = expected
    expected = undefined
    came({
      parameters,
      show: (worked) =>
        new Promise((resolve) => {
          response.once('close', resolve)
          if (response.destroyed) resolve()
          else page(response, worked ? 200 : 400, worked ? texts.worked : texts.failed)
        }),
    })
  }

  const server = createServer(handle)
  await new Promise<void>((resolve, reject) => {
    server.once('error', () =>
      reject(new CommandFailure(`Nothing can listen on port ${port} of this machine.`)),
    )
    server.listen(port, '127.0.0.1', resolve)
  })
  const { port: listening } = server.address() as AddressInfo

  return {
    redirectUri: `http://127.0.0.1:${listening}/callback`,
    answer: (state, withinMs) =>
      new Promise((resolve, reject) => {
        const timer = setTimeout(() => {
          expected = undefined
          reject(
            new CommandFailure(
              'Nobody signed in within five minutes. Run it again for a new link.',
            ),
          )
        }, withinMs)
        expected = {
          state,
          came(answer) {
            clearTimeout(timer)
            resolve(answer)
          },
        }
      }),
    close() {
      server.close()
      server.closeAllConnections()
    },
  }
}

const texts = {
  worked: 'You are signed in. You can close this window.',
  failed: 'That did not work. The terminal says why.',
  notOurs: 'This is not the sign-in that is waited for.',
  notHere: 'There is nothing here.',
} as const

/** Fixed text only: whatever came with the request may be anybody's. */
function page(response: ServerResponse, status: number, text: string): void {
  response
    .writeHead(status, {
      'content-type': 'text/html; charset=utf-8',
      'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
      'cache-control': 'no-store',
      'referrer-policy': 'no-referrer',
      'x-content-type-options': 'nosniff',
      connection: 'close',
    })
    .end(`<!doctype html><html lang="en"><title>onbehalf</title><p>${text}</p></html>\n`)
}
