import { describe, expect, it } from 'vitest'
import { Secret } from '../../../src/core/secret.ts'
import { createKeyring, generateKey } from '../../../src/sealing/keyring.ts'

const key = (id: string, text = generateKey()) => ({ id, secret: new Secret(text) })

describe('keyring', () => {
  it('seals with the first key and finds all of them by the bytes of their id', () => {
    const keyring = createKeyring([key('k1'), key('schlüssel')])
    expect(keyring.sealing.id).toBe('k1')
    expect(keyring.find(Buffer.from('k1'))?.id).toBe('k1')
    expect(keyring.find(Buffer.from('schlüssel'))?.id).toBe('schlüssel')
    expect(keyring.find(Buffer.from('k'))).toBeUndefined()
  })

  it('keeps ids apart whose bytes would decode to the same replacement character', () => {
    const keyring = createKeyring([key('\ufffd')])
    expect(keyring.find(Buffer.from([0xff]))).toBeUndefined()
  })

  it.each([
    ['31 bytes', Buffer.alloc(31, 7).toString('base64')],
    ['33 bytes', Buffer.alloc(33, 7).toString('base64')],
    ['nothing', ''],
    ['hex', Buffer.alloc(32, 7).toString('hex')],
    ['text that is not base64', '*'.repeat(43)],
    ['32 bytes with a stray character', `${generateKey().slice(0, 20)} ${generateKey().slice(20)}`],
  ])('M-S7: refuses a key of %s, without printing it', (_name, text) => {
    const refusal = refusalOf(() => createKeyring([key('k1', text)]))
    expect(refusal).toContain('"k1" is not the base64 of 32 bytes')
    if (text !== '') expect(refusal).not.toContain(text)
  })

  it('takes a key with or without padding', () => {
    const text = generateKey()
    expect(createKeyring([key('k1', text.replace('=', ''))]).sealing.id).toBe('k1')
  })

  it('M-S6: refuses no key, one id twice, an empty id and one above 255 bytes', () => {
    expect(refusalOf(() => createKeyring([]))).toContain('no encryption key')
    expect(refusalOf(() => createKeyring([key('k1'), key('k1')]))).toContain('twice')
    expect(refusalOf(() => createKeyring([key('')]))).toContain('1 to 255 bytes')
    expect(refusalOf(() => createKeyring([key('é'.repeat(128))]))).toContain('1 to 255 bytes')
    expect(createKeyring([key('k'.repeat(255))]).keys).toHaveLength(1)
  })

  it('generates base64 of 32 bytes, another one each time', () => {
    const texts = Array.from({ length: 100 }, generateKey)
    expect(new Set(texts).size).toBe(100)
    for (const text of texts) {
      expect(Buffer.from(text, 'base64')).toHaveLength(32)
      expect(text).toMatch(/^[A-Za-z0-9+/]{43}=$/)
    }
  })
})

function refusalOf(act: () => unknown): string {
  try {
    act()
  } catch (error) {
    return String(error)
  }
  throw new Error('was not refused')
}
