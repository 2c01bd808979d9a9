import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { createBrowser, createCookieJar, readForms } from '../support/browser.ts'

describe('the scripted browser reads forms', () => {
  const page = new URL('http://127.0.0.1:1/connect/x?y=1')

  it('with hidden fields, entities, ticked boxes and buttons as a browser would send them', () => {
    const [form, ...others] = readForms(
      `<!-- <form action="/no"><button>no</button></form> -->
       <form class=a method="POST" action="/go?a=1&amp;b=2">
         <input type="hidden" name="csrf" value="a&quot;b&#39;c&#x26;d">
         <input name='plain' value='1 > 0'><input type=checkbox name=on checked><input type=checkbox name=off>
         <input type="text" name="gone" disabled value="x">
         <button name="decision" value="yes"><b>Yes</b>
           please</button>
         <button type="button">Help</button>
         <input type="submit" value="Send">
       </form>`,
      page,
    )
    expect(others).toEqual([])
    expect(form?.action.href).toBe('http://127.0.0.1:1/go?a=1&b=2')
    expect(form?.method).toBe('post')
    expect(form?.fields).toEqual([
      ['csrf', `a"b'c&d`],
      ['plain', '1 > 0'],
      ['on', 'on'],
    ])
    expect(form?.buttons).toEqual([
      { name: 'decision', value: 'yes', text: 'Yes please' },
      { name: undefined, value: 'Send', text: 'Send' },
    ])
  })

  it('and sends a form without an action to its own page', () => {
    expect(readForms('<form><button>x</button></form>', page)[0]?.action.href).toBe(page.href)
  })
})

describe('the cookie jar', () => {
  const url = new URL('http://127.0.0.1:8080/login/callback')
  const use = { crossSite: false, safeMethod: true }
  const jarWith = (...lines: string[]) => {
    const jar = createCookieJar()
    jar.take(url, lines)
    return jar
  }

  it('knows no ports, but hosts and paths', () => {
    const jar = jarWith('a=1; Path=/', 'b=2', 'c=3; Path=/other')
    expect(jar.header(new URL('http://127.0.0.1:9090/login/x'), use)).toBe('b=2; a=1')
    expect(jar.header(new URL('http://127.0.0.1:9090/loginx'), use)).toBe('a=1')
    expect(jar.header(new URL('http://127.0.0.2:8080/login/x'), use)).toBeUndefined()
  })

  it('forgets what has ended and what is set to end', () => {
    const jar = jarWith('a=1; Max-Age=60', 'b=2; Expires=Thu, 01 Jan 2015 00:00:00 GMT')
    expect(jar.list().map(({ name }) => name)).toEqual(['a'])
    jar.take(url, ['a=; Max-Age=0'])
    expect(jar.list()).toEqual([])
  })

  it('keeps no __Host- cookie that breaks its rules', () => {
    const jar = jarWith(
      '__Host-good=1; Secure; Path=/',
      '__Host-insecure=1; Path=/',
      '__Host-wide=1; Secure; Path=/; Domain=127.0.0.1',
      '__Host-deep=1; Secure; Path=/deep',
    )
    expect(jar.list().map(({ name }) => name)).toEqual(['__Host-good'])
  })

  it('heeds SameSite on the way from another site', () => {
    const jar = jarWith('s=1; Path=/; SameSite=Strict', 'l=1; Path=/; SameSite=Lax', 'd=1; Path=/')
    expect(jar.header(url, { crossSite: true, safeMethod: true })).toBe('l=1; d=1')
    expect(jar.header(url, { crossSite: true, safeMethod: false })).toBeUndefined()
    expect(jar.header(url, use)).toBe('s=1; l=1; d=1')
  })
})

describe('the scripted browser', () => {
  type Seen = { method: string; url: string; headers: IncomingMessage['headers']; body: string }
  const seen: Seen[] = []
  const servers: Server[] = []
  let here: string
  let elsewhere: string

  async function start(
    host: string,
    answer: (request: Seen, response: ServerResponse) => void,
  ): Promise<string> {
    const server = createServer((incoming, response) => {
      let body = ''
      incoming.on('data', (chunk: Buffer) => {
        body += chunk.toString()
      })
      incoming.on('end', () => {
        const { method = '', url = '', headers } = incoming
        const request = { method, url, headers, body }
        seen.push(request)
        answer(request, response)
      })
    })
    await new Promise<void>((resolve) => server.listen(0, host, resolve))
    servers.push(server)
    return `http://${host}:${(server.address() as AddressInfo).port}`
  }

  beforeAll(async () => {
    elsewhere = await start('localhost', ({ url }, response) => {
      if (url === '/back') response.writeHead(302, { location: `${here}/end` }).end()
      else response.end(`<form method=post action="${here}/post"><button>go</button></form>`)
    })
    here = await start('127.0.0.1', ({ url }, response) => {
      const form = '<form method="post" action="/post"><button>go</button></form>'
      if (url === '/set') response.writeHead(200, { 'set-cookie': 's=1; SameSite=Strict; Path=/' })
      if (url === '/out') response.writeHead(303, { location: `${elsewhere}/back` })
      if (url === '/loop') response.writeHead(302, { location: '/loop' })
      if (url === '/post') response.writeHead(303, { location: '/end' })
      if (url === '/keep') response.writeHead(307, { location: '/end' })
      if (url === '/hidden') response.writeHead(200, { 'referrer-policy': 'no-referrer' })
      if (url === '/strict') {
        response.writeHead(200, {
          'content-security-policy': "default-src 'none'; form-action 'self'",
        })
        response.end('<form method="post" action="/out"><button>go</button></form>')
      } else {
        response.end(url === '/keeper' ? form.replace('/post', '/keep') : form)
      }
    })
  })
  afterAll(() => {
    for (const server of servers) server.close()
  })

  it('submits a form with its origin and follows the redirect with GET', async () => {
    const browser = createBrowser()
    const page = await browser.open(`${here}/form`)
    const end = await browser.submit(page, page.forms[0]!, { fields: { extra: 'a b' } })
    expect(end.url.pathname).toBe('/end')
    expect(end.trail.map(({ pathname }) => pathname)).toEqual(['/post', '/end'])
    const [post, get] = seen.slice(-2)
    expect(post).toMatchObject({ method: 'POST', body: 'extra=a+b' })
    expect(post?.headers).toMatchObject({ origin: here, 'sec-fetch-site': 'same-origin' })
    expect(get).toMatchObject({ method: 'GET', url: '/end', body: '' })
  })

  it('keeps the method on 307', async () => {
    const browser = createBrowser()
    const page = await browser.open(`${here}/keeper`)
    await browser.submit(page, page.forms[0]!, { fields: { a: '1' } })
    expect(seen.at(-1)).toMatchObject({ method: 'POST', url: '/end', body: 'a=1' })
  })

  it('hides the origin of a form on a page that asks for no referrer', async () => {
    const browser = createBrowser()
    const page = await browser.open(`${here}/hidden`)
    await browser.submit(page, page.forms[0]!)
    expect(seen.at(-2)?.headers).toMatchObject({ origin: 'null', 'sec-fetch-site': 'same-origin' })
  })

  it('says that a form of another site is one, and keeps strict cookies back', async () => {
    const browser = createBrowser()
    await browser.open(`${here}/set`)
    const page = await browser.open(`${elsewhere}/form`)
    await browser.submit(page, page.forms[0]!)
    expect(seen.at(-2)).toMatchObject({ method: 'POST', url: '/post' })
    expect(seen.at(-2)?.headers).toMatchObject({
      origin: elsewhere,
      'sec-fetch-site': 'cross-site',
    })
    expect(seen.at(-2)?.headers.cookie).toBeUndefined()
    await browser.open(`${here}/form`)
    expect(seen.at(-1)?.headers).toMatchObject({ cookie: 's=1', 'sec-fetch-site': 'none' })
  })

  it('takes a way through another site for a way from there', async () => {
    const browser = createBrowser()
    const page = await browser.open(`${here}/set`)
    await browser.click(page, '/out')
    expect(seen.at(-1)).toMatchObject({ url: '/end' })
    expect(seen.at(-1)?.headers['sec-fetch-site']).toBe('cross-site')
    expect(seen.at(-1)?.headers.cookie).toBeUndefined()
  })

  it('stops where it is told to, before the request is made', async () => {
    const before = seen.length
    const page = await createBrowser().open(`${here}/out`, {
      until: ({ origin }) => origin === elsewhere,
    })
    expect(page.headers.location).toBe(`${elsewhere}/back`)
    expect(seen.length).toBe(before + 1)
  })

  it('refuses to follow a form where form-action forbids it, as Chromium does', async () => {
    const browser = createBrowser()
    const page = await browser.open(`${here}/strict`)
    await expect(browser.submit(page, page.forms[0]!)).rejects.toThrow('form-action')
  })

  it('gives up on a circle of redirects', async () => {
    await expect(createBrowser().open(`${here}/loop`)).rejects.toThrow('redirects')
  })
})
