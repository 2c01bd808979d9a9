import { createServer } from 'node:http'
import { existsSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { createBroker } from '../../src/index.ts'
import { startDemoSandbox } from '../../src/demo/demo-sandbox.ts'
import { runDemo, type StartBroker } from '../../src/demo/demo.ts'
import { findTestPort } from '../support/test-port.ts'

type DemoConfig = { readonly public_url: string; readonly data_dir: string }

async function run(
  startBroker: StartBroker,
  options: { readonly once?: boolean; readonly signal?: AbortSignal } = {},
): Promise<{ code: number; text: string }> {
  const lines: string[] = []
  const code = await runDemo({
    once: options.once ?? true,
    port: await findTestPort(),
    out: (line) => lines.push(line),
    startBroker,
    signal: options.signal ?? new AbortController().signal,
  })
  return { code, text: lines.join('\n') }
}

const startRealBroker: StartBroker = async (config) => {
  const broker = await createBroker(config as object)
  return { url: await broker.listen(), stop: () => broker.stop() }
}

/** Listens where the broker should and knows nothing. */
const startBrokenBroker: StartBroker = async (config) => {
  const { public_url: url } = config as DemoConfig
  const server = createServer((_request, response) => {
    response.writeHead(404, { 'content-type': 'application/json' }).end('{"code":"not_found"}')
  })
  const { port } = new URL(url)
  await new Promise<void>((resolve) => server.listen(Number(port), '127.0.0.1', resolve))
  return {
    url,
    stop: () => new Promise((resolve) => server.close(() => resolve())),
  }
}

describe('onbehalf demo', () => {
  it('does the main job on the real parts, and says so', { timeout: 180_000 }, async () => {
    const { code, text } = await run(startRealBroker)
    expect(text).toMatch(/All \d+ checks held\.$/)
    expect(code).toBe(0)
    expect(text).not.toContain('✗')
    for (const line of [
      /403 connect_required · not_connected/,
      /ada's browser: sign in → confirm → choose account → consent → \/connections/,
      /refreshes that Notes' authorization server counted: 1/,
      /ada +notes +refresh +success/,
      /ada +reports +acquire +success/,
      /ada +notes +disconnect +success +the person/,
    ]) {
      expect(text).toMatch(line)
    }
    // Tokens of its servers are JWTs, its secrets and keys begin with demo-.
    expect(text).not.toMatch(/eyJ|demo-[\w-]{20,}/)
  })

  it('takes MCP clients of others: they register and are asked to sign in for the gateway’s address', async () => {
    const sandbox = await startDemoSandbox({ port: 0 })
    const { identityProvider, publicUrl } = sandbox
    const redirectUri = 'http://127.0.0.1:9/callback'
    const registered = await fetch(`${identityProvider.issuer}/reg`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ redirect_uris: [redirectUri], token_endpoint_auth_method: 'none' }),
    })
    const { client_id: clientId } = (await registered.json()) as { client_id: string }
    for (const name of ['notes', 'reports']) {
      const query = new URLSearchParams({
        response_type: 'code',
        client_id: clientId,
        redirect_uri: redirectUri,
        scope: 'openid offline_access',
        code_challenge: 'E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM',
        code_challenge_method: 'S256',
        resource: `${publicUrl}/mcp/${name}`,
      })
      const url = `${identityProvider.issuer}/auth?${query.toString()}`
      const answer = await fetch(url, { redirect: 'manual' })
      expect(answer.headers.get('location')).toMatch(/\/interaction\//)
    }
    await sandbox.stop()
  })

  it('ends with 1 and names the step when the broker does not do its job', async () => {
    const { code, text } = await run(startBrokenBroker)
    expect(code).toBe(1)
    expect(text).toContain('✗ the call is refused with a link for Ada')
    expect(text).toMatch(/checks did not hold:\n {3}step 1: the call is refused with a link/)
  })

  it('ends with 1 and the reason when the broker does not start, and leaves nothing behind', async () => {
    let dataDir = ''
    const { code, text } = await run(async (config) => {
      dataDir = (config as DemoConfig).data_dir
      expect(existsSync(dataDir)).toBe(true)
      throw new Error('no room for a broker')
    })
    expect(code).toBe(1)
    expect(text).toContain('✗ no room for a broker')
    expect(existsSync(dataDir)).toBe(false)
  })

  it('ends where it is when it is told to, and stops the broker', async () => {
    const ending = new AbortController()
    let stopped = false
    const { code } = await run(
      async (config) => {
        const broker = await startBrokenBroker(config)
        ending.abort()
        return {
          url: broker.url,
          async stop() {
            await broker.stop()
            stopped = true
          },
        }
      },
      { once: false, signal: ending.signal },
    )
    expect(code).toBe(1)
    expect(stopped).toBe(true)
  })
})
