import { html } from 'hono/html'
import type { AuthorizationErrorLabel } from '../core/callback-parameters.ts'
import type { ConnectionReason, ConnectionStatus } from '../core/credential.ts'
import type { ConnectionView } from '../core/ports/broker-services.ts'
import type { ConnectionsPageView } from '../core/ports/pages.ts'
import { csrfField, layout } from './layout.ts'
import { instant, type Markup, scopeList } from './markup.ts'

/** What a person has connected, what they can connect, and what just happened. */
export function connectionsPage(view: ConnectionsPageView): Promise<string> {
  const { viewer, connections, notice } = view
  return layout({
    title: 'Connections',
    viewer,
    main: html`<h1>Your connections</h1>
<p class="lead">Tools that work for you use these accounts, each with your own permission. You can take it back at any time.</p>
${notice === undefined ? html`` : noticeOf(notice)}
${
  connections.length === 0
    ? html`<p class="empty">There is nothing here that you may use yet.</p>`
    : html`<ul class="cards">${connections.map((connection) => card(connection, view))}</ul>`
}`,
  })
}

/** What the forms of a card need of the page. */
type Forms = Pick<ConnectionsPageView, 'longestKey' | 'viewer'>

function card(connection: ConnectionView, forms: Forms): Markup {
  const { displayName, status } = connection
  // Nobody connects an exchange: where there is no credential now, the next call gets one.
  const isIdle = isExchanged(connection) && (status === 'not_connected' || status === 'expired')
  const says = saidOf(connection)
  return html`<li class="card">
<div class="card-head">
<h2>${displayName}</h2>
<span class="status ${isIdle ? 'not_connected' : status}">${isIdle ? 'Ready' : statusWords[status]}</span>
</div>
${says === undefined || isIdle ? html`` : html`<p class="reason">${says}</p>`}
${isNothingStored(connection) ? html`` : facts(connection)}
${buttons(connection, forms)}
</li>`
}

function saidOf({ mode, status, reason }: ConnectionView): string | undefined {
  if (status === 'not_connected') return undefined
  if (mode === null) return offeredNoMore
  if (status === 'unavailable') return unavailableNow
  return reason === null ? undefined : reasonWords[reason]
}

/** Also of one that nobody could connect yet, because its server does not answer. */
function isNothingStored({ status, connectedAt }: ConnectionView): boolean {
  return status === 'not_connected' || (status === 'unavailable' && connectedAt === null)
}

function facts({ account, scopes, connectedAt, lastUsedAt }: ConnectionView): Markup {
  return html`<dl>
${row('Account', account)}
${row('Scopes', scopeList(scopes))}
${row('Connected', connectedAt)}
${row('Last used', lastUsedAt)}
</dl>`
}

const offeredNoMore = 'It is no longer offered here. Disconnect it to remove what is stored.'
const unavailableNow =
  'It does not answer at the moment, or is not set up right. If that stays so, tell whoever runs this.'
const throughSignIn = 'Works through your sign-in: there is nothing for you to connect.'

function row(name: string, value: string | Date | Markup | null): Markup {
  if (value === null) return html``
  const shown = value instanceof Date ? instant(value) : value
  return html`<div><dt>${name}</dt><dd>${shown}</dd></div>`
}

/** Its credentials come through the person's sign-in. */
function isExchanged({ mode, connectable }: ConnectionView): boolean {
  return mode !== null && mode !== 'user_key' && !connectable
}

function takesKey({ mode }: ConnectionView): boolean {
  return mode === 'user_key'
}

function buttons(connection: ConnectionView, forms: Forms): Markup {
  const { upstream, mode, displayName } = connection
  if (isExchanged(connection)) return html`<p class="muted">${throughSignIn}</p>`
  const connect = mode === null ? html`` : connectOrKeyForm(connection, forms)
  if (isNothingStored(connection)) return html`<div class="actions">${connect}</div>`
  return html`<div class="actions">${connect}
<form method="post" action="/connections/${upstream}/disconnect">${csrfField(forms.viewer)}
<button type="submit" class="danger">Disconnect<span class="hidden"> ${displayName}</span></button></form></div>`
}

function connectOrKeyForm(connection: ConnectionView, forms: Forms): Markup {
  return takesKey(connection) ? keyForm(connection, forms) : connectForm(connection, forms)
}

/** A password field, so that neither a screen nor a history shows it. */
function keyForm(
  { upstream, status, displayName }: ConnectionView,
  { longestKey, viewer }: Forms,
): Markup {
  const isStored = status === 'connected'
  return html`<form method="post" action="/connections/${upstream}/key" class="key">${csrfField(viewer)}
<label>Your key for ${displayName}<input type="password" name="key" required maxlength="${longestKey}" autocomplete="off" spellcheck="false"></label>
<button type="submit" class="${isStored ? 'second' : 'first'}">${isStored ? 'Replace the key' : 'Store the key'}<span class="hidden"> for ${displayName}</span></button></form>`
}

function connectForm({ upstream, status, displayName }: ConnectionView, { viewer }: Forms): Markup {
  const isConnected = status === 'connected'
  return html`<form method="post" action="/connections/${upstream}/connect">${csrfField(viewer)}
<button type="submit" class="${isConnected ? 'second' : 'first'}">${isConnected ? 'Connect again' : 'Connect'}<span class="hidden"> ${displayName}</span></button></form>`
}

const statusWords: Readonly<Record<ConnectionStatus, string>> = {
  connected: 'Connected',
  expired: 'Ended',
  not_connected: 'Not connected',
  reconnect_required: 'Needs you again',
  unavailable: 'Not available',
}

const reasonWords: Readonly<Record<ConnectionReason, string>> = {
  access_denied: 'Access was denied.',
  configuration_changed: 'Its settings here have changed since. Please connect again.',
  credential_expired: 'Its permission has ended. Please connect again.',
  insufficient_scope: 'It asks for more than you allowed so far. Please connect again.',
  not_connected: 'You have not connected it yet.',
  refresh_failed: 'Its server no longer accepts the permission. Please connect again.',
  refresh_outcome_unknown:
    "An answer of its server was lost, and with it the permission. Please connect again; it wasn't your doing.",
}

function noticeOf(notice: NonNullable<ConnectionsPageView['notice']>): Markup {
  switch (notice.kind) {
    case 'connected':
      return html`<p class="notice good" role="status"><strong>${notice.displayName}</strong> is connected.</p>`
    case 'disconnected':
      return html`<p class="notice good" role="status"><strong>${notice.displayName}</strong> is disconnected.</p>`
    case 'failed': {
      const name = notice.displayName ?? 'The upstream'
      return html`<p class="notice bad" role="alert"><strong>${name}</strong> was not connected. ${labelWords[notice.label]}</p>`
    }
  }
}

const labelWords: Readonly<Record<AuthorizationErrorLabel, string>> = {
  access_denied: 'Access was not granted.',
  account_selection_required: 'Its server asks you to choose an account. Please try again.',
  authorization_denied: 'Its server did not allow it.',
  consent_required: 'Its server needs a consent that was not given.',
  interaction_required: 'Its server asks you to do something first. Please try again.',
  invalid_scope:
    'It was asked for something that its server does not know. Please tell whoever runs this.',
  login_required: 'Its server asks you to sign in there first. Please try again.',
  server_error: 'Its server had a fault. Please try again later.',
  temporarily_unavailable: 'Its server is not available at the moment. Please try again later.',
}
