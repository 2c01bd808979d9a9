import { html } from 'hono/html'
import type { ProblemPageView } from '../core/ports/pages.ts'
import { layout } from './layout.ts'

/** Says in words what went wrong, and where to go on. */
export function problemPage(view: ProblemPageView): Promise<string> {
  const { viewer, next } = view
  const { title, detail } = wordsFor[view.code] ?? view
  const more = view.detail ?? detail
  return layout({
    title,
    viewer,
    main: html`<section class="panel">
<h1>${title}</h1>
${more === undefined ? html`` : html`<p>${more}</p>`}
${viewer === undefined ? html`` : html`<p>You are signed in as <strong>${viewer.name}</strong>.</p>`}
${next === undefined ? html`` : html`<p class="actions"><a class="button first" href="${next.href}">${next.text}</a></p>`}
<p class="muted">${view.status} <a href="/docs#problem-${view.code}"><code>${view.code}</code></a> · request <code>${view.requestId}</code></p>
</section>`,
  })
}

/** Where people need other words than programs do. */
const wordsFor: Readonly<Record<string, { readonly title: string; readonly detail?: string }>> = {
  connect_link_invalid: {
    title: 'This link does not work any more',
    detail: 'It was used, it has ended, or it was not opened in the browser where it began.',
  },
  connect_wrong_person: {
    title: 'This link is for somebody else',
    detail:
      'It was made for another person, and stays good for them. If that is you under another account, sign out and open it again.',
  },
  forbidden: {
    title: 'This is not for you',
    detail:
      'You are signed in, but this account may not see or do this. Whoever runs this can say who may.',
  },
  not_found: { title: 'There is nothing here' },
  unauthenticated: {
    title: 'Please sign in',
    detail: 'You are not signed in, or not any more.',
  },
}

export function signedOutPage(): Promise<string> {
  return layout({
    title: 'Signed out',
    viewer: undefined,
    main: html`<section class="panel">
<h1>You are signed out</h1>
<p>Your connections go on working for the tools that use them.</p>
<p class="actions"><a class="button first" href="/login">Sign in again</a></p>
</section>`,
  })
}
