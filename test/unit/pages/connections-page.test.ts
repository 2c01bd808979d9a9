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

it('what is left at an upstream that is configured no more can be removed, and nothing else', async () => {
  const page = await connectionsPage({ viewer, connections: [connection], notice: undefined })
  expect(page).toContain('action="/connections/files/disconnect"')
  expect(page).not.toContain('action="/connections/files/connect"')
  expect(page).not.toContain('Please connect again')
  const exchanged = { ...connection, mode: 'token_exchange' }
  const other = await connectionsPage({ viewer, connections: [exchanged], notice: undefined })
  expect(other).not.toContain('action="/connections/files')
})
