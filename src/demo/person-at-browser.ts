import type { BrowserPage, ScriptedBrowser } from './scripted-browser.ts'

export type PersonsChoices = {
  /** Whom to sign in as at the identity provider. */
  readonly person: string
  /** Which account to connect at the upstream. */
  readonly account: string
  readonly decision: 'allow' | 'deny'
}

const maxPages = 10

/**
 * Opens a connect link and answers every page that comes, as a person would: sign-in, the broker's confirmation, the choice of
 * an account, the consent. Ends on the first page that asks nothing of these, and says which were answered.
 */
export async function followConnectLink(
  browser: ScriptedBrowser,
  link: string,
  choices: PersonsChoices,
): Promise<{ readonly page: BrowserPage; readonly answered: readonly string[] }> {
  const answered: string[] = []
  let page = await browser.open(link)
  for (let pages = 0; pages < maxPages; pages += 1) {
    const question = findQuestion(page, choices)
    if (question === undefined) return { page, answered }
    answered.push(question.name)
    page = await browser.submit(page, question.form, question.options)
  }
  throw new Error('the pages do not come to an end')
}

type Question = {
  readonly name: 'sign in' | 'confirm' | 'choose account' | 'consent'
  readonly form: BrowserPage['forms'][number]
  readonly options: { readonly button?: string }
}

function findQuestion(page: BrowserPage, choices: PersonsChoices): Question | undefined {
  const formWith = (button: string) =>
    page.forms.find(({ buttons }) => buttons.some(({ name }) => name === button))
  const signIn = formWith('person')
  if (signIn !== undefined) {
    return { name: 'sign in', form: signIn, options: { button: choices.person } }
  }
  const chooseAccount = formWith('account')
  if (chooseAccount !== undefined) {
    return { name: 'choose account', form: chooseAccount, options: { button: choices.account } }
  }
  const consent = formWith('decision')
  if (consent !== undefined) {
    return { name: 'consent', form: consent, options: { button: choices.decision } }
  }
  if (!page.url.pathname.startsWith('/connect/')) return undefined
  // The page may also have a form to sign out with.
  const confirm = page.forms.find(
    ({ method, action }) => method === 'post' && action.pathname.startsWith('/connect/'),
  )
  return confirm === undefined ? undefined : { name: 'confirm', form: confirm, options: {} }
}
