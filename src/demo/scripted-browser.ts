import { type IncomingHttpHeaders, request as sendRequest } from 'node:http'
import { type CookieJar, createCookieJar } from './cookie-jar.ts'
import { type HtmlForm, readForms } from './html-forms.ts'

export type BrowserPage = {
  /** Where the browser ended up. */
  readonly url: URL
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: string
  readonly forms: readonly HtmlForm[]
  /** Every address on the way here, this one last. */
  readonly trail: readonly URL[]
}

export type NavigationOptions = {
  /** Follow redirects (default). Otherwise the redirect itself is the page. */
  readonly follow?: boolean
  /** Stop before an address for which this holds; the redirect to it is the page. */
  readonly until?: (next: URL) => boolean
}

export type SubmitOptions = NavigationOptions & {
  /** Text or value of the button to press. Default: the first. */
  readonly button?: string
  /** Filled in by the person, or changed by an attacker. */
  readonly fields?: Readonly<Record<string, string>>
}

/**
 * A browser without a screen or scripts: a cookie jar, redirects, forms. It sends `Origin` and `Sec-Fetch-*` as a browser does,
 * heeds SameSite, `Referrer-Policy` where it hides the origin, and `form-action`, on redirects too.
 */
export type ScriptedBrowser = {
  readonly cookies: CookieJar
  /** As if the address was typed in. */
  open(url: string | URL, options?: NavigationOptions): Promise<BrowserPage>
  /** As if a link on a page was clicked. */
  click(from: BrowserPage, href: string, options?: NavigationOptions): Promise<BrowserPage>
  submit(page: BrowserPage, form: HtmlForm, options?: SubmitOptions): Promise<BrowserPage>
  /** Any request with the browser's cookies, such as one of a script or of an attacker. */
  send(url: string | URL, request: BrowserRequest): Promise<BrowserPage>
}

export type BrowserRequest = {
  readonly method: string
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
}

type Navigation = {
  readonly url: URL
  readonly method: 'GET' | 'POST'
  readonly body: string | undefined
  /** The page that it began on; undefined when the address was typed in. */
  readonly initiator: BrowserPage | undefined
  /** Addresses that redirected here. */
  readonly trail: readonly URL[]
}

const maxRedirects = 20

export function createScriptedBrowser(): ScriptedBrowser {
  const cookies = createCookieJar()

  async function load(navigation: Navigation): Promise<BrowserPage> {
    const { url, method, body, trail } = navigation
    const site = fetchSite(navigation)
    const cookie = cookies.header(url, {
      crossSite: site === 'cross-site',
      safeMethod: method === 'GET',
    })
    return send(url, trail, {
      method,
      headers: {
        accept: 'text/html,application/xhtml+xml;q=0.9,*/*;q=0.8',
        'sec-fetch-dest': 'document',
        'sec-fetch-mode': 'navigate',
        'sec-fetch-site': site,
        'sec-fetch-user': '?1',
        'upgrade-insecure-requests': '1',
        ...(method === 'POST'
          ? {
              origin: originHeader(navigation),
              'content-type': 'application/x-www-form-urlencoded',
            }
          : {}),
        ...(cookie === undefined ? {} : { cookie }),
      },
      ...(body === undefined ? {} : { body }),
    })
  }

  async function send(
    url: URL,
    trail: readonly URL[],
    { method, headers = {}, body }: BrowserRequest,
  ): Promise<BrowserPage> {
    const answer = await exchange(url, { method, headers, ...(body === undefined ? {} : { body }) })
    cookies.take(url, answer.headers['set-cookie'] ?? [])
    return { ...answer, url, forms: readForms(answer.body, url), trail: [...trail, url] }
  }

  async function navigate(start: Navigation, options: NavigationOptions): Promise<BrowserPage> {
    let navigation = start
    for (let redirects = 0; redirects <= maxRedirects; redirects += 1) {
      const page = await load(navigation)
      const next = redirectTarget(page)
      if (next === undefined || options.follow === false || options.until?.(next) === true) {
        return page
      }
      if (start.method === 'POST') checkFormAction(start, next)
      const keepsMethod = page.status === 307 || page.status === 308
      navigation = {
        ...navigation,
        url: next,
        trail: page.trail,
        ...(keepsMethod ? {} : { method: 'GET', body: undefined }),
      }
    }
    throw new Error(`more than ${maxRedirects} redirects`)
  }

  return {
    cookies,
    open: (url, options = {}) =>
      navigate(
        { url: new URL(url), method: 'GET', body: undefined, initiator: undefined, trail: [] },
        options,
      ),
    click: (from, href, options = {}) =>
      navigate(
        {
          url: new URL(href, from.url),
          method: 'GET',
          body: undefined,
          initiator: from,
          trail: [],
        },
        options,
      ),
    submit: (page, form, options = {}) => {
      const values = formValues(form, options)
      const isPost = form.method === 'post'
      const url = new URL(form.action)
      if (!isPost) url.search = values.toString()
      const navigation: Navigation = {
        url,
        method: isPost ? 'POST' : 'GET',
        body: isPost ? values.toString() : undefined,
        initiator: page,
        trail: [],
      }
      checkFormAction(navigation, url)
      return navigate(navigation, options)
    },
    send: (address, request) => {
      const url = new URL(address)
      const cookie = cookies.header(url, { crossSite: false, safeMethod: true })
      return send(url, [], {
        ...request,
        headers: { ...(cookie === undefined ? {} : { cookie }), ...request.headers },
      })
    },
  }
}

function formValues(
  form: HtmlForm,
  { button: wanted, fields = {} }: SubmitOptions,
): URLSearchParams {
  const button =
    wanted === undefined
      ? form.buttons[0]
      : form.buttons.find(({ text, value }) => text === wanted || value === wanted)
  if (button === undefined) throw new Error('the form has no such button')
  const values = new URLSearchParams(
    form.fields.map(([name, value]): [string, string] => [name, value]),
  )
  if (button.name !== undefined) values.append(button.name, button.value)
  for (const [name, value] of Object.entries(fields)) values.set(name, value)
  return values
}

function redirectTarget({ status, headers, url }: BrowserPage): URL | undefined {
  const isRedirect = [301, 302, 303, 307, 308].includes(status)
  return isRedirect && headers.location !== undefined ? new URL(headers.location, url) : undefined
}

type FetchSite = 'none' | 'same-origin' | 'same-site' | 'cross-site'

/** `Sec-Fetch-Site` of the whole chain: one foreign hop makes all that follows foreign. */
function fetchSite({ url, initiator, trail }: Navigation): FetchSite {
  if (initiator === undefined) return 'none'
  const hops = [...trail, url]
  if (hops.some((hop) => siteOf(hop) !== siteOf(initiator.url))) return 'cross-site'
  return hops.every(({ origin }) => origin === initiator.url.origin) ? 'same-origin' : 'same-site'
}

/** No public suffix is in use here, so a host is a site. */
function siteOf(url: URL): string {
  return `${url.protocol}//${url.hostname}`
}

/** Fetch, "append a request Origin header": a page that hides its address hides its origin from forms, too. */
function originHeader({ initiator, trail }: Navigation): string {
  const policy = String(initiator?.headers['referrer-policy'] ?? '')
  const left = trail.some(({ origin }) => origin !== initiator?.url.origin)
  if (initiator === undefined || left || /(^|,\s*)no-referrer$/.test(policy)) return 'null'
  return initiator.url.origin
}

/** CSP Level 3 §6.4.2: Chromium asks it of the redirects that follow a form, too. */
function checkFormAction({ initiator }: Navigation, target: URL): void {
  const policy = initiator?.headers['content-security-policy']
  const directive = String(policy ?? '')
    .split(';')
    .map((part) => part.trim().split(/\s+/))
    .find(([name]) => name?.toLowerCase() === 'form-action')
  if (initiator === undefined || directive === undefined) return
  const allowed = directive
    .slice(1)
    .some(
      (source) =>
        source === '*' ||
        source === target.protocol ||
        (source === "'self'" && target.origin === initiator.url.origin) ||
        source.replace(/\/$/, '') === target.origin,
    )
  if (!allowed) throw new Error(`form-action of the page forbids the way to ${target.origin}`)
}

function exchange(
  url: URL,
  { method, headers, body }: BrowserRequest,
): Promise<Pick<BrowserPage, 'status' | 'headers' | 'body'>> {
  return new Promise((resolve, reject) => {
    const length = body === undefined ? {} : { 'content-length': String(Buffer.byteLength(body)) }
    const request = sendRequest(url, { method, headers: { ...headers, ...length } }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('error', reject)
      response.on('end', () => {
        const text = Buffer.concat(chunks).toString('utf8')
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body: text })
      })
    })
    request.on('error', reject)
    request.end(body)
  })
}
