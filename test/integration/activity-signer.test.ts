import { createPublicKey, verify } from 'node:crypto'
import { describe, expect, it, onTestFinished } from 'vitest'
import { createActivitySigner } from '../../src/sealing/activity-signer.ts'
import { createEnvelope } from '../../src/sealing/envelope.ts'
import { createKeyring, generateKey } from '../../src/sealing/keyring.ts'
import { Secret } from '../../src/core/secret.ts'
import { createSigningKeyRecords } from '../../src/storage/signing-key-records.ts'
import { createTestDatabase } from '../support/database.ts'

const k1 = { id: 'k1', secret: new Secret(generateKey()) }
const k2 = { id: 'k2', secret: new Secret(generateKey()) }

async function testSigner() {
  const { database, drop } = await createTestDatabase()
  onTestFinished(drop)
  const records = createSigningKeyRecords(database)
  const signerWith = (...keys: (typeof k1)[]) =>
    createActivitySigner({ records, sealer: createEnvelope(createKeyring(keys)) })
  return { database, records, signerWith }
}

describe('the key that signs what the activity log says of itself', () => {
  it('is Ed25519, one for all processes that start together, and signs what anybody can verify', async () => {
    const { signerWith } = await testSigner()
    const signed = await Promise.all([1, 2, 3].map(() => signerWith(k1).sign('grüße')))
    const [first] = signed
    expect(new Set(signed.map(({ key }) => key.kid)).size).toBe(1)
    const key = createPublicKey({ key: { ...first?.key }, format: 'jwk' })
    const signature = Buffer.from(first?.signature ?? '', 'base64url')
    expect(verify(null, Buffer.from('grüße'), key, signature)).toBe(true)
    expect(verify(null, Buffer.from('gruesse'), key, signature)).toBe(false)
  })

  it('lies sealed in the database', async () => {
    const { records, signerWith } = await testSigner()
    await signerWith(k1).sign('x')
    const [record] = await records.list()
    expect(record?.sealedPrivateKey.at(0)).toBe(0xb7)
    expect(Buffer.from(record?.sealedPrivateKey ?? []).toString('latin1')).not.toContain('MC4CAQ')
  })

  it('is followed by another where it does not open, and stays', async () => {
    const { database, signerWith } = await testSigner()
    const before = await signerWith(k1).sign('x')
    const without = await signerWith(k2).sign('x')
    expect(without.key.kid).not.toBe(before.key.kid)
    expect((await signerWith(k2, k1).keys()).map(({ kid }) => kid)).toEqual([
      before.key.kid,
      without.key.kid,
    ])
    const rows = await database.sql`select from activity_signing_key`
    expect(rows).toHaveLength(2)
  })

  it('counts only where its sealed half belongs to the public one: writing to the database makes no key', async () => {
    const { database, signerWith } = await testSigner()
    const { key } = await signerWith(k1).sign('x')
    await database.sql`update activity_signing_key set public_key = 'AAAA'`
    expect(await signerWith(k1).keys()).toEqual([])
    await database.sql`update activity_signing_key set public_key = ${key.x}, key_id = 'other'`
    expect(await signerWith(k1).keys()).toEqual([])
  })
})
