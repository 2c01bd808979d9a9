import { html } from 'hono/html'
import type { Viewer } from '../core/ports/pages.ts'
import { icon } from './icon.ts'
import type { Markup } from './markup.ts'
import { stylesheet } from './stylesheet.ts'

/** The frame of every page. `viewer` absent: nobody is signed in, or it does not matter who. */
export async function layout(options: {
  readonly title: string
  readonly viewer: Viewer | undefined
  readonly main: Markup
  readonly wide?: boolean
  /** Whether the head offers to sign out. */
  readonly signOut?: boolean
}): Promise<string> {
  const { title, viewer, main, wide, signOut = true } = options
  const page = await html`<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="robots" content="noindex">
<title>${title} · onbehalf</title>
<link rel="icon" href="${icon.path}">
<link rel="stylesheet" href="${stylesheet.path}">
</head>
<body>
<a class="skip" href="#main">Skip to content</a>
<header class="bar">
<a class="brand" href="/connections">onbehalf</a>
${viewer === undefined ? html`` : signedIn(viewer, signOut)}
</header>
<main id="main" class="${wide === true ? 'wide' : 'narrow'}">
${main}
</main>
</body>
</html>
`
  return page.toString()
}

function signedIn(viewer: Viewer, signOut: boolean): Markup {
  return html`<nav aria-label="Main">
<a href="/connections">Connections</a>
${viewer.admin ? html`<a href="/activity">Activity</a>` : html``}
</nav>
<div class="who">
<span title="${viewer.issuer}">${viewer.name}</span>
${signOut ? signOutForm(viewer) : html``}
</div>`
}

function signOutForm(viewer: Viewer): Markup {
  return html`<form method="post" action="/logout">${csrfField(viewer)}<button class="quiet" type="submit">Sign out</button></form>`
}

/** The proof that a form is ours. */
export function csrfField(viewer: Viewer): Markup {
  return html`<input type="hidden" name="csrf_token" value="${viewer.csrfToken}">`
}
