import { existsSync } from 'node:fs'
import { createServer, type RequestListener } from 'node:http'
import { type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { startServer } from '../../src/http/server.ts'
import { ada, admin, createHttpRoom, type HttpRoom } from '../support/http-room.ts'

/** The pages in a real browser, with JavaScript switched off. */

const executable = process.env['CHROMIUM'] ?? '/usr/bin/chromium'
const hasBrowser = existsSync(executable)
if (!hasBrowser) console.warn('skipped the browser tests: apt-get install chromium')

const flags = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

type Site = { url: string; close(): Promise<void> }

async function serve(listener: RequestListener, host: string): Promise<Site> {
  const server = createServer(listener)
  await new Promise<void>((resolve) => {
    server.listen(0, host === 'localhost' ? '127.0.0.1' : host, resolve)
  })
  const { port } = server.address() as AddressInfo
  return {
    url: `http://${host}:${port}`,
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections()
        server.close(() => resolve())
      }),
  }
}

const redirect =
  (to: (query: URLSearchParams) => string): RequestListener =>
  (request, response) => {
    const { searchParams } = new URL(request.url ?? '/', 'http://x')
    response.writeHead(302, { location: to(searchParams) }).end()
  }

describe.skipIf(!hasBrowser)('In a browser without JavaScript', () => {
  let browser: Browser
  let context: BrowserContext
  let page: Page
  let http: HttpRoom
  let origin: string
  const sites: Site[] = []
  /** What the browser complained about, and where it went. */
  let complaints: string[]
  let visited: string[]

  /** A site of its own: another origin, and for `localhost` another site as well. */
  async function site(listener: RequestListener, host = '127.0.0.1'): Promise<Site> {
    const started = await serve(listener, host)
    sites.push(started)
    return started
  }

  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: executable, args: flags })
  })
  afterAll(() => browser.close())

  beforeEach(async () => {
    let app: HttpRoom['app'] | undefined
    const broker = await startServer({
      fetch: (request, bindings) => app?.fetch(request, bindings) ?? new Response(),
      host: '127.0.0.1',
      port: 0,
    })
    origin = `http://127.0.0.1:${broker.port}`
    sites.push({ url: origin, close: () => broker.close(0) })
    http = createHttpRoom({ publicUrl: origin })
    app = http.app

    const identityProvider = await site(
      redirect((query) => `${origin}/login/callback?code=c&state=${query.get('state')}`),
      'localhost',
    )
    http.room.signInUrl = `${identityProvider.url}/authorize?client_id=onbehalf`

    context = await browser.newContext({ javaScriptEnabled: false, colorScheme: 'light' })
    page = await context.newPage()
    complaints = []
    visited = []
    page.on('console', (message) => complaints.push(message.text()))
    page.on('dialog', (dialog) => complaints.push(dialog.message()))
    page.on('request', (request) => visited.push(new URL(request.url()).origin))
  })
  afterEach(async () => {
    await context.close()
    await Promise.all(sites.splice(0).map((one) => one.close()))
  })

  /** `SCREENSHOTS=/tmp/x npx vitest run test/e2e/browser-pages.test.ts` leaves pictures to look at. */
  async function picture(name: string, fullPage = true): Promise<void> {
    const folder = process.env['SCREENSHOTS']
    if (folder === undefined) return
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme })
      await page.screenshot({ path: join(folder, `${name}-${colorScheme}.png`), fullPage })
    }
  }

  it('signs in at once, comes back, connects over two other servers, disconnects, signs out', async () => {
    const second = await site(redirect((query) => `${origin}/callback/files?${query.toString()}`))
    const first = await site(redirect((query) => `${second.url}/login?${query.toString()}`))
    http.room.confirm = () => ({
      kind: 'authorize',
      url: new URL(`${first.url}/authorize?code=c&state=s`),
    })
    http.room.complete = () => {
      http.room.statuses.set('files', 'connected')
      return '/connections?upstream=files&connected=1'
    }

    await page.goto(`${origin}/connections`)
    await expect.poll(() => page.url()).toBe(`${origin}/connections`)
    expect(await page.textContent('.who')).toContain('ada@example.com')
    await picture('connections-new')

    await page.getByRole('button', { name: 'Connect Files' }).click()
    await expect.poll(() => page.url()).toBe(`${origin}/connect/CNRY-ticket`)
    await expect.poll(() => page.textContent('h1')).toBe('Connect Files?')
    await picture('confirm')
    await page.getByRole('button', { name: 'Continue' }).click()
    // C16: the code is not in the address any more.
    await expect.poll(() => page.url()).toBe(`${origin}/connections?upstream=files&connected=1`)
    await expect.poll(() => page.textContent('[role=status]')).toBe('Files is connected.')
    expect(http.room.completed).toMatchObject([{ params: 'code=c&state=s', person: ada }])
    expect(http.room.completed[0]?.browser).toMatch(/^[\w-]{43}$/)
    await picture('connections-connected')

    await page.getByRole('button', { name: 'Disconnect Files' }).click()
    await expect.poll(() => page.textContent('[role=status]')).toContain('Files is disconnected')
    expect(http.room.disconnected).toMatchObject([{ person: ada, upstream: 'files' }])

    await page.getByRole('button', { name: 'Sign out' }).click()
    await expect.poll(() => page.url()).toBe(`${origin}/signed-out`)
    expect(http.room.sessions.size).toBe(0)
    await picture('signed-out')
    expect(complaints).toEqual([])
  })

  it('goes on to an allow-listed origin after a consent that was given before', async () => {
    const app = await site((_request, response) => {
      response.writeHead(200, { 'content-type': 'text/html' }).end('<h1>The app</h1>')
    }, 'localhost')
    const server = await site(redirect(() => `${origin}/callback/files?code=c&state=s`))
    http.room.confirm = () => ({ kind: 'authorize', url: new URL(`${server.url}/authorize`) })
    http.room.complete = () => `${app.url}/done?upstream=files&connected=1`
    await page.goto(`${origin}/connect/CNRY-ticket`)
    await page.getByRole('button', { name: 'Continue' }).click()
    await expect.poll(() => page.url()).toBe(`${app.url}/done?upstream=files&connected=1`)
    expect(complaints).toEqual([])
  })

  it('shows an admin the activity, filters it, and reaches nobody else for its pages', async () => {
    http.room.completeSignIn = () => admin
    for (let index = 0; index < 12; index += 1) {
      const failed = index % 4 === 1
      http.room.records.push({
        id: `0194c0de-0000-7000-8000-0000000000${10 + index}`,
        occurredAt: new Date(Date.parse('2026-11-21T11:00:00Z') - index * 61_337),
        requestId: `0194c0d${index % 10}-0000-4000-8000-00000000000b`,
        type: 'credential_broker',
        userId: index % 3 === 0 ? 'ada' : 'bob',
        issuer: 'https://login.example.com',
        actor: { kind: 'service', id: 'edge' },
        upstream: 'files',
        action: failed ? 'connect' : 'inject',
        method: 'connect',
        outcome: failed ? 'failure' : 'success',
        reason: failed ? 'not_connected' : null,
        durationMs: 0.4 * index,
        details: { identity: 'token' },
      })
    }
    await page.goto(`${origin}/activity`)
    expect(await page.locator('tbody tr').count()).toBe(12)
    await picture('activity')
    await page.locator('select[name=outcome]').selectOption('failure')
    await page.locator('input[name=user_id]').fill('ada')
    await page.getByRole('button', { name: 'Search' }).click()
    await expect
      .poll(() => http.room.filters.at(-1))
      .toEqual({ userId: ['ada'], outcome: ['failure'] })
    expect(await page.locator('select[name=outcome]').inputValue()).toBe('failure')
    visited = []
    await page.goto(`${origin}/docs`)
    await picture('docs', false)
    await page.goto(`${origin}/docs#connections`)
    await picture('docs-connections', false)
    expect(await page.locator('#problem-connect_required').count()).toBe(1)
    expect(new Set(visited)).toEqual(new Set([origin]))
    expect(complaints).toEqual([])
  })

  it('C13: runs nothing that an address or a name brings along', async () => {
    const context2 = await browser.newContext({ javaScriptEnabled: true })
    const live = await context2.newPage()
    live.on('dialog', (dialog) => complaints.push(dialog.message()))
    const payload = encodeURIComponent('"><script>alert(1)</script><img src=x onerror=alert(1)>')
    for (const path of [`/connections?upstream=${payload}&error=${payload}`, `/${payload}`]) {
      await live.goto(origin + path)
      expect(await live.locator('script, img').count()).toBe(0)
    }
    await context2.close()
    expect(complaints).toEqual([])
  })

  it('C17: is shown in no frame, and T19: obeys no form of another site', async () => {
    await page.goto(`${origin}/connections`)
    const evil = await site((_request, response) => {
      response.writeHead(200, { 'content-type': 'text/html' }).end(
        `<iframe src="${origin}/connections"></iframe>
         <form method="post" action="${origin}/connections/files/disconnect"><button>Win</button></form>`,
      )
    }, 'localhost')
    await page.goto(evil.url)
    const frame = page.frames()[1]
    expect(await frame?.locator('.cards').count()).toBe(0)
    await page.getByRole('button', { name: 'Win' }).click()
    await expect.poll(() => page.textContent('h1')).toBe('Please sign in')
    expect(http.room.disconnected).toEqual([])
    await picture('problem')
  })
})
