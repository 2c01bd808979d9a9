import { describe, expect, it } from 'vitest'
import type { SealingContext } from '../../../src/core/ports/sealer.ts'
import { Secret } from '../../../src/core/secret.ts'
import { createEnvelope } from '../../../src/sealing/envelope.ts'
import { createKeyring, generateKey, watchKeyring } from '../../../src/sealing/keyring.ts'

const key = (id: string) => ({ id, secret: new Secret(generateKey()) })
const context: SealingContext = {
  table: 'credential',
  field: 'access_token',
  issuer: 'https://login.example.com',
  userId: 'alice',
  upstream: 'files',
  generation: 7,
}

describe('envelope', () => {
  const envelope = createEnvelope(createKeyring([key('k1')]))

  it.each([
    ['a token', 'eyJhbGciOiJFUzI1NiJ9.e30.c2ln'],
    ['nothing', ''],
    ['text of every width', 'aé–😀\u0000\n'],
    ['64 KiB', 'x'.repeat(65_536)],
  ])('opens what it sealed: %s', (_name, text) => {
    expect(envelope.open(envelope.seal(new Secret(text), context), context).reveal()).toBe(text)
  })

  it('M-S2: seals the same text twice into different bytes', () => {
    const seals = Array.from({ length: 50 }, () => envelope.seal(new Secret('same'), context))
    expect(new Set(seals.map((sealed) => sealed.toString('hex'))).size).toBe(50)
    // Not only the whole differs: salt, IV and ciphertext each do.
    for (const [from, to] of [
      [5, 37],
      [37, 49],
      [49, 53],
    ] as const) {
      expect(new Set(seals.map((sealed) => sealed.toString('hex', from, to))).size).toBe(50)
    }
  })

  it('holds no byte sequence of the text', () => {
    const text = 'CANARY-0123456789'
    const sealed = envelope.seal(new Secret(text), context)
    expect(sealed.includes(text)).toBe(false)
    expect(sealed.includes(Buffer.from(text).toString('base64'))).toBe(false)
    expect(sealed.length).toBe(3 + 'k1'.length + 32 + 12 + text.length + 16)
  })

  it('says in clear which key seals, behind one length byte, so that SQL can count', () => {
    const sealed = createEnvelope(createKeyring([key('schlüssel')])).seal(
      new Secret('text'),
      context,
    )
    expect(sealed.subarray(3, 3 + (sealed[2] ?? 0)).toString('utf8')).toBe('schlüssel')
  })

  it('opens with every configured key, and seals with the first', () => {
    const [old, fresh] = [key('old'), key('new')]
    const before = createEnvelope(createKeyring([old])).seal(new Secret('before'), context)
    const both = createEnvelope(createKeyring([fresh, old]))
    expect(both.open(before, context).reveal()).toBe('before')
    const after = both.seal(new Secret('after'), context)
    expect(
      createEnvelope(createKeyring([fresh]))
        .open(after, context)
        .reveal(),
    ).toBe('after')
  })

  it('names the key that a value was sealed under and that is not configured, where it can be one', () => {
    const missing: (string | undefined)[] = []
    const other = createEnvelope(watchKeyring(createKeyring([key('k2')]), (id) => missing.push(id)))
    const sealed = envelope.seal(new Secret('text'), context)
    expect(() => other.open(sealed, context)).toThrow()
    const forged = Buffer.from(sealed)
    forged.write('\n', 3)
    expect(() => other.open(forged, context)).toThrow()
    expect(missing).toEqual(['k1', undefined])
  })
})
