import type { BrowserPage, ScriptedBrowser } from '../../src/demo/scripted-browser.ts'
import { followConnectLink } from '../../src/demo/person-at-browser.ts'

export { createCookieJar } from '../../src/demo/cookie-jar.ts'
export { type HtmlForm, readForms } from '../../src/demo/html-forms.ts'
export {
  type BrowserPage,
  createScriptedBrowser as createBrowser,
  type ScriptedBrowser,
} from '../../src/demo/scripted-browser.ts'
export { followConnectLink }

/**
 * Answers the sandbox pages from where the browser is (choice of person or account, consent) and stops before the redirect
 * that `until` names, so that a test can look at it, change it or send another browser there.
 */
export async function answerSandboxPages(
  browser: ScriptedBrowser,
  start: BrowserPage,
  choices: { readonly choose: string; readonly decision?: 'allow' | 'deny' },
  until: (next: URL) => boolean,
): Promise<URL> {
  let page = start
  for (let pages = 0; pages < 5; pages += 1) {
    const next = nextAddress(page)
    if (next !== undefined && until(next)) return next
    const [form] = page.forms
    if (form === undefined) break
    const asksForConsent = form.buttons.some(({ name }) => name === 'decision')
    const button = asksForConsent ? (choices.decision ?? 'allow') : choices.choose
    page = await browser.submit(page, form, { button, until })
  }
  throw new Error(`no page led to the expected address; the last one was ${page.url.pathname}`)
}

function nextAddress({ headers, url }: BrowserPage): URL | undefined {
  return headers.location === undefined ? undefined : new URL(headers.location, url)
}

/** Opens an authorization request and answers it as a person; gives the address of the redirect back to the client. */
export async function authorizeAs(
  browser: ScriptedBrowser,
  request: string | URL,
  choices: { readonly choose: string; readonly decision?: 'allow' | 'deny' },
): Promise<URL> {
  const redirectUri = new URL(request).searchParams.get('redirect_uri')
  const until = ({ origin, pathname }: URL): boolean => `${origin}${pathname}` === redirectUri
  return answerSandboxPages(browser, await browser.open(request, { until }), choices, until)
}
