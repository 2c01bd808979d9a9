import { describe, expect, it } from 'vitest'
import type { Credential } from '../../../src/core/credential.ts'
import {
  createCredentialMemory,
  memoryKey,
  memoryKeyOf,
  remember,
} from '../../../src/core/credential-memory.ts'
import { Secret } from '../../../src/core/secret.ts'
import { bindingOf } from '../../../src/core/upstream.ts'
import { oauthUpstream } from '../../support/oauth-upstream.ts'
import { deferred } from './deferred.ts'

const { credential: settings } = oauthUpstream()
const obtainedAt = new Date('2026-11-21T12:00:00Z')
const expiresAt = new Date('2026-11-21T13:00:00Z')

function credential(change: Partial<Credential> = {}): Credential {
  return {
    generation: 1,
    accessToken: new Secret('a$&b'),
    fingerprint: 'fp',
    method: 'connect',
    scopes: [],
    audience: undefined,
    obtainedAt,
    expiresAt,
    renewable: true,
    renewed: false,
    binding: bindingOf(settings),
    ...change,
  }
}

describe('the memory of credentials', () => {
  it('remembers what was found, until it is forgotten', async () => {
    const memory = createCredentialMemory()
    const found = remember(credential(), settings)
    expect(await memory.load('ada', () => Promise.resolve(found))).toBe(found)
    expect(memory.get('ada')).toBe(found)
    memory.forget('ada')
    expect(memory.get('ada')).toBeUndefined()
  })

  it('remembers nothing that was read before the row changed', async () => {
    const memory = createCredentialMemory()
    const read = deferred<ReturnType<typeof remember>>()
    const loading = memory.load('ada', () => read.promise)
    memory.forget('ada')
    read.resolve(remember(credential(), settings))
    expect(await loading).toMatchObject({ credential: { generation: 1 } })
    expect(memory.get('ada')).toBeUndefined()
  })

  it('looks once for all who ask meanwhile, and anew for whoever asks after the row changed', async () => {
    const memory = createCredentialMemory()
    const old = deferred<ReturnType<typeof remember>>()
    const first = memory.load('ada', () => old.promise)
    const joined = memory.load('ada', () => Promise.reject(new Error('a second look')))
    memory.forget('ada')
    const changed = remember(credential({ generation: 2 }), settings)
    const later = memory.load('ada', () => Promise.resolve(changed))
    expect(await later).toBe(changed)
    const before = remember(credential(), settings)
    old.resolve(before)
    expect(await first).toBe(before)
    expect(await joined).toBe(before)
    expect(memory.get('ada')).toBe(changed)
  })

  it('remembers nothing of what is not there, and looks again', async () => {
    const memory = createCredentialMemory()
    const absent = { unusable: 'not_connected' } as const
    expect(await memory.load('ada', () => Promise.resolve(absent))).toBe(absent)
    const found = remember(credential(), settings)
    expect(await memory.load('ada', () => Promise.resolve(found))).toBe(found)
  })

  it('a look that failed is no answer to the next who asks', async () => {
    const memory = createCredentialMemory()
    const failed = memory.load('ada', () => Promise.reject(new Error('away')))
    await expect(failed).rejects.toThrow('away')
    const found = remember(credential(), settings)
    expect(await memory.load('ada', () => Promise.resolve(found))).toBe(found)
  })

  it('forgets one person without the other', async () => {
    const memory = createCredentialMemory()
    const found = remember(credential(), settings)
    await memory.load('ada', () => Promise.resolve(found))
    memory.forget('grace')
    expect(memory.get('ada')).toBe(found)
  })

  it('keeps people and upstreams apart whose names run into each other', () => {
    const keys = [
      memoryKey({ issuer: 'https://a', userId: 'b' }, 'files'),
      memoryKey({ issuer: 'https://', userId: 'ab' }, 'files'),
      memoryKey({ issuer: 'https://a', userId: 'b' }, 'files2'),
      memoryKey({ issuer: 'https://a', userId: 'b2' }, 'files'),
      memoryKey({ issuer: 'https://a1', userId: '0b' }, 'files'),
    ]
    expect(new Set(keys).size).toBe(keys.length)
    expect(memoryKeyOf({ issuer: 'https://a', userId: 'b', upstream: 'files' })).toBe(keys[0])
  })

  it('formats the header once, and takes a token as it is', () => {
    const { resolved } = remember(credential(), { ...settings, headerFormat: 'token {token}' })
    expect(resolved).toMatchObject({ header: 'Authorization', value: 'token a$&b', expiresAt })
  })

  it('a credential is to be used unasked until its renewal is due, and to its end where nothing can renew it', () => {
    const dueMs = expiresAt.getTime() - settings.refreshBeforeSeconds * 1000
    expect(remember(credential(), settings).validUntilMs).toBe(dueMs)
    const last = credential({ renewable: false })
    expect(remember(last, settings).validUntilMs).toBe(expiresAt.getTime())
    // Another exchange may do what no refresh token can.
    const exchanged = { ...settings, mode: 'token_exchange' } as const
    expect(remember(last, exchanged).validUntilMs).toBe(dueMs)
    const endless = credential({ renewable: false, expiresAt: undefined })
    expect(remember(endless, settings).validUntilMs).toBe(Number.POSITIVE_INFINITY)
  })
})
