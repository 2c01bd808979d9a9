import { expect, it } from 'vitest'
import type { ConnectionView } from '../../../src/core/ports/broker-services.ts'
import { connectionsPage } from '../../../src/pages/connections-page.ts'

const viewer = { name: 'ada', issuer: 'https://login.example.com', admin: false, csrfToken: 'x' }
const connection: ConnectionView = {
  upstream: 'files',
  displayName: 'files',
  mode: null,
  status: 'reconnect_required',
  reason: 'configuration_changed',
  scopes: ['files:read'],
  audience: null,
  method: 'connect',
  account: null,
  expiresAt: null,
  connectedAt: new Date('2026-11-20T08:00:00Z'),
  lastUsedAt: null,
  connectable: false,
}

const pageOf = (one: ConnectionView) =>
  connectionsPage({ viewer, connections: [one], longestKey: 100, notice: undefined })

it('what is left at an upstream that is configured no more can be removed, and nothing else', async () => {
  const page = await pageOf(connection)
  expect(page).toContain('action="/connections/files/disconnect"')
  expect(page).not.toContain('action="/connections/files/connect"')
  expect(page).not.toContain('Please connect again')
  const exchanged = { ...connection, mode: 'token_exchange' }
  const other = await pageOf(exchanged)
  expect(other).not.toContain('action="/connections/files')
})

it('what nobody could connect yet offers nothing to disconnect, and says that it is not the person', async () => {
  const failing: ConnectionView = {
    ...connection,
    mode: 'oauth_connect',
    status: 'unavailable',
    reason: null,
    connectedAt: null,
    connectable: true,
  }
  const page = await pageOf(failing)
  expect(page).toContain('tell whoever runs this')
  expect(page).toContain('action="/connections/files/connect"')
  expect(page).not.toContain('action="/connections/files/disconnect"')
  const stored = { ...failing, connectedAt: new Date('2026-11-20T08:00:00Z') }
  const other = await pageOf(stored)
  expect(other).toContain('action="/connections/files/disconnect"')
})

it('a field for a key takes as many characters as a key may have', async () => {
  const page = await pageOf({ ...connection, mode: 'user_key', status: 'not_connected' })
  expect(page).toContain('name="key" required maxlength="100"')
})
