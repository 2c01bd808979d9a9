import { html } from 'hono/html'

/** A piece of HTML whose values were escaped as they were put in. */
export type Markup = ReturnType<typeof html>

/** An instant for people, in UTC: a page without scripts does not know where its reader is. */
export function instant(at: Date): Markup {
  const iso = at.toISOString()
  return html`<time datetime="${iso}">${iso.slice(0, 10)} ${iso.slice(11, 16)} UTC</time>`
}

/** Scopes as a list; a word where there is none. */
export function scopeList(scopes: readonly string[]): Markup {
  if (scopes.length === 0) return html`<span class="muted">no particular scope</span>`
  return html`<ul class="scopes">${scopes.map((scope) => html`<li><code>${scope}</code></li>`)}</ul>`
}
