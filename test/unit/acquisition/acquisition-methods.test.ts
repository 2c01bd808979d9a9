import { describe, expect, it } from 'vitest'
import { createAcquisition } from '../../../src/acquisition/index.ts'
import { type CredentialMode, methodOfMode } from '../../../src/core/upstream.ts'
import { Secret } from '../../../src/core/secret.ts'
import { createHttpClient } from '../../../src/outbound/http-client.ts'
import { acquisitionMethodContract } from '../../contracts/acquisition-method-contract.ts'
import { createFakeClock } from '../../support/fake-clock.ts'
import { oauthUpstream } from '../../support/oauth-upstream.ts'

const modes = Object.keys(methodOfMode) as CredentialMode[]

/** All but this one ask a server. */
const asking = modes.filter((mode) => mode !== 'user_key')
for (const mode of asking) acquisitionMethodContract(mode)

describe('the methods', () => {
  const methods = createAcquisition({ http: createHttpClient(), clock: createFakeClock() }).methods

  it('are there for every mode', () => {
    expect(Object.keys(methods)).toHaveLength(modes.length)
    expect(methods).toMatchObject(Object.fromEntries(modes.map((mode) => [mode, {}])))
  })

  it('ask nobody for a key that the person stored', async () => {
    const { user_key: userKey } = methods
    const upstream = oauthUpstream()
    const key = new Secret('CNRY-key')
    await expect(userKey.refresh(upstream, key, [])).rejects.toMatchObject({
      verdict: { kind: 'reconnect', reason: 'credential_expired' },
    })
    await expect(userKey.revoke(upstream, key, 'access_token')).resolves.toBeUndefined()
  })

  it('acquire where a subject token is exchanged, and not where a person connects', () => {
    expect(methods.token_exchange).toHaveProperty('acquire')
    expect(methods.entra_obo).toHaveProperty('acquire')
    expect(methods.oauth_connect).not.toHaveProperty('acquire')
    expect(methods.user_key).not.toHaveProperty('acquire')
  })
})
