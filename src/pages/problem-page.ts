import { html } from 'hono/html'
import type { ProblemPageView } from '../core/ports/pages.ts'
import { layout } from './layout.ts'

/** Says in words what went wrong, and where to go on. */
export function problemPage(view: ProblemPageView): Promise<string> {
  const { title, detail, viewer, next } = view
  return layout({
    title,
    viewer,
    main: html`<section class="panel">
<h1>${title}</h1>
${detail === undefined ? html`` : html`<p>${detail}</p>`}
${viewer === undefined ? html`` : html`<p>You are signed in as <strong>${viewer.name}</strong>.</p>`}
${next === undefined ? html`` : html`<p class="actions"><a class="button first" href="${next.href}">${next.text}</a></p>`}
<p class="muted">${view.status} <a href="/docs#problem-${view.code}"><code>${view.code}</code></a> · request <code>${view.requestId}</code></p>
</section>`,
  })
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
