import { html } from 'hono/html'
import type { ConfirmConnectView, Viewer } from '../core/ports/pages.ts'
import { csrfField, layout } from './layout.ts'
import { type Markup, scopeList } from './markup.ts'

/**
 * Asks before anything begins: who is signed in, what is connected, where the browser goes and for which scopes. Whoever was
 * sent somebody else's link can see here that it is not what they wanted.
 */
export function confirmConnectPage(view: ConfirmConnectView): Promise<string> {
  const { viewer, displayName, authorizationServerHost } = view
  return layout({
    title: `Connect ${displayName}`,
    viewer,
    // One form on this page, so that nobody presses another than they meant.
    signOut: false,
    main: html`<section class="panel">
<h1>Connect ${displayName}?</h1>
<dl>
<div><dt>You are</dt><dd><strong>${viewer.name}</strong><br><span class="muted">signed in at ${hostOf(viewer.issuer)}</span></dd></div>
<div><dt>You connect</dt><dd><strong>${displayName}</strong></dd></div>
${authorizationServerHost === undefined ? again : atServer(authorizationServerHost, view.scopes)}
</dl>
<p>From then on, tools that work for you may use ${displayName} as you. You can take it back under <a href="/connections">your connections</a>.</p>
<form method="post" action="${view.action}" class="actions">${csrfField(viewer)}
<button type="submit" class="first">Continue</button>
<a class="button second" href="/connections">Cancel</a>
</form>
<p class="muted">Did somebody send you this link? Continue only if you meant to connect ${displayName} yourself.</p>
</section>`,
  })
}

const again = html`<div><dt>Next</dt><dd>You sign in once more, because your organisation asks for another proof or a consent.</dd></div>`

function atServer(host: string, scopes: readonly string[]): Markup {
  return html`<div><dt>You are asked at</dt><dd><code>${host}</code></dd></div>
<div><dt>For</dt><dd>${scopeList(scopes)}</dd></div>`
}

/** A used link whose person is connected by now. */
export function alreadyConnectedPage(view: {
  readonly viewer: Viewer
  readonly displayName: string
}): Promise<string> {
  return layout({
    title: `${view.displayName} is connected`,
    viewer: view.viewer,
    main: html`<section class="panel">
<h1>${view.displayName} is connected</h1>
<p>This link was used already, and it did its work: you are connected. There is nothing left to do here.</p>
<p class="actions"><a class="button first" href="/connections">Your connections</a></p>
</section>`,
  })
}

function hostOf(issuer: string): string {
  return URL.canParse(issuer) ? new URL(issuer).host : issuer
}
