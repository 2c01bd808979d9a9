import { describe, expect, it } from 'vitest'
import { createAcquisitionMethods } from '../../../src/acquisition/index.ts'
import { type CredentialMode, methodOfMode } from '../../../src/core/upstream.ts'
import { createHttpClient } from '../../../src/outbound/http-client.ts'
import { acquisitionMethodContract } from '../../contracts/acquisition-method-contract.ts'
import { createFakeClock } from '../../support/fake-clock.ts'

const modes = Object.keys(methodOfMode) as CredentialMode[]

for (const mode of modes) acquisitionMethodContract(mode)

describe('the methods', () => {
  const methods = createAcquisitionMethods({ http: createHttpClient(), clock: createFakeClock() })

  it('are there for every mode', () => {
    expect(Object.keys(methods)).toHaveLength(modes.length)
    expect(methods).toMatchObject(Object.fromEntries(modes.map((mode) => [mode, {}])))
  })

  it('acquire where a subject token is exchanged, and not where a person connects', () => {
    expect(methods.token_exchange).toHaveProperty('acquire')
    expect(methods.entra_obo).toHaveProperty('acquire')
    expect(methods.oauth_connect).not.toHaveProperty('acquire')
  })
})
