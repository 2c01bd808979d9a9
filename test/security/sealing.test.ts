import { createCipheriv, hkdfSync, randomBytes } from 'node:crypto'
import { describe, expect, it } from 'vitest'
import { isBrokerError } from '../../src/core/errors.ts'
import type { SealingContext } from '../../src/core/ports/sealer.ts'
import { Secret } from '../../src/core/secret.ts'
import { createEnvelope } from '../../src/sealing/envelope.ts'
import { createKeyring, generateKey } from '../../src/sealing/keyring.ts'
import { seededRandom } from '../support/seeded-random.ts'

const secretText = generateKey()
const envelope = createEnvelope(createKeyring([{ id: 'k1', secret: new Secret(secretText) }]))
const text = 'CANARY-access-token-0123456789'

const context = {
  table: 'credential',
  field: 'access_token',
  issuer: 'https://login.example.com',
  userId: 'alice',
  upstream: 'files',
  generation: 7,
} satisfies SealingContext

describe('S1: a sealed value opens in its own place only', () => {
  const ticketHash = randomBytes(32)
  const ticket = {
    table: 'connect_ticket',
    field: 'claims',
    issuer: context.issuer,
    userId: 'alice',
    upstream: 'files',
    ticketHash,
  } satisfies SealingContext
  const flow = {
    table: 'sign_in_flow',
    field: 'nonce',
    stateHash: ticketHash,
  } satisfies SealingContext
  const signIn = {
    table: 'sign_in_token',
    field: 'access_token',
    issuer: context.issuer,
    userId: 'alice',
    generation: 7,
  } satisfies SealingContext

  const swaps: readonly (readonly [string, SealingContext, SealingContext])[] = [
    ['another person', context, { ...context, userId: 'bob' }],
    ['another issuer', context, { ...context, issuer: 'https://login.example.org' }],
    ['another upstream', context, { ...context, upstream: 'mail' }],
    ['another column', context, { ...context, field: 'refresh_token' }],
    ['an older generation', context, { ...context, generation: 6 }],
    ['a newer generation', context, { ...context, generation: 8 }],
    [
      'a person whose id begins with this one',
      { ...context, userId: 'a', upstream: 'bc' },
      { ...context, userId: 'ab', upstream: 'c' },
    ],
    [
      'an issuer and person that read the same side by side',
      { ...context, issuer: 'https://a', userId: 'b:c' },
      { ...context, issuer: 'https://ab', userId: ':c' },
    ],
    ['another ticket', ticket, { ...ticket, ticketHash: randomBytes(32) }],
    ['another column of the ticket', ticket, { ...ticket, field: 'sealed_ticket' }],
    ['another flow', flow, { ...flow, stateHash: randomBytes(32) }],
    ['the verifier of the same flow', flow, { ...flow, field: 'code_verifier' }],
    ['a sign-in token of the same person', context, signIn],
    ['another generation of the sign-in token', signIn, { ...signIn, generation: 8 }],
    [
      'a connect flow with the hash of a ticket',
      ticket,
      {
        table: 'connect_flow',
        field: 'code_verifier',
        issuer: context.issuer,
        userId: 'alice',
        upstream: 'files',
        stateHash: ticketHash,
      },
    ],
    ['a check value', context, { table: 'encryption_key', field: 'check' }],
  ]

  it.each(swaps)('not in the place of %s', (_name, from, to) => {
    const sealed = envelope.seal(new Secret(text), from)
    expect(envelope.open(sealed, from).reveal()).toBe(text)
    expectCorrupt(sealed, to)
    expectCorrupt(envelope.seal(new Secret(text), to), from)
  })

  it('not under another key of the same id', () => {
    const other = createEnvelope(
      createKeyring([{ id: 'k1', secret: new Secret(generateKey()) }]),
    ).seal(new Secret(text), context)
    expectCorrupt(other)
  })

  it('not when its key id is written over with another configured one, even of the same secret', () => {
    const secret = new Secret(secretText)
    const two = createEnvelope(
      createKeyring([
        { id: 'k1', secret },
        { id: 'k2', secret },
      ]),
    )
    const sealed = two.seal(new Secret(text), context)
    sealed.write('k2', 3)
    expect(() => two.open(sealed, context)).toThrow('credential_corrupt')
  })
})

describe('S2: there is no way down to plaintext', () => {
  it.each([
    ['nothing', Buffer.alloc(0)],
    ['one byte', Buffer.of(0xb7)],
    ['two bytes', Buffer.of(0xb7, 1)],
    ['a head alone', Buffer.of(0xb7, 1, 2)],
    ['a raw token', Buffer.from(text)],
    ['JSON', Buffer.from(JSON.stringify({ access_token: text }))],
    ['a marker that means "not encrypted" elsewhere', Buffer.from('enc:none:CANARY')],
    ['format 0', withByte(1, 0)],
    ['a later format', withByte(1, 2)],
    ['another magic byte', withByte(0, 0x7b)],
    ['a key id of no length', withByte(2, 0)],
    ['a key id longer than the value', withByte(2, 255)],
    ['an unknown key id', withByte(3, 0x78)],
    ['a long text behind the magic', Buffer.concat([Buffer.of(0xb7), Buffer.alloc(500, 'A')])],
    [
      'plaintext behind a good head',
      Buffer.concat([sealedText().subarray(0, 49), Buffer.from(text)]),
    ],
  ])('%s is refused', (_name, value) => {
    expectCorrupt(value)
  })
})

describe('S3: every change is noticed', () => {
  it('1,000 random mutations of sealed values', () => {
    const random = seededRandom(20_240_601)
    const below = (limit: number) => Math.floor(random() * limit)
    const survived: string[] = []
    for (let round = 0; round < 1000; round += 1) {
      const sealed = sealedText()
      const [name, candidate] = mutate(sealed, round, below)
      const mutant = candidate.equals(sealed) ? flipBit(sealed, round % 400) : candidate
      if (!isRefused(mutant, context)) survived.push(`${round} ${name}`)
    }
    expect(survived).toEqual([])
  })

  it('each single bit of one value', () => {
    const sealed = sealedText()
    for (let bit = 0; bit < sealed.length * 8; bit += 1) {
      expectCorrupt(flipBit(sealed, bit))
    }
    expect(envelope.open(sealed, context).reveal()).toBe(text)
  })

  it.each([4, 8, 12, 13, 14, 15])(
    'F9: a tag cut to %i bytes, which Node would take without authTagLength',
    (tagBytes) => {
      expectCorrupt(sealedText().subarray(0, -16 + tagBytes))
    },
  )

  it('F9: an empty text whose tag was cut so that the value is shorter than any can be', () => {
    const sealed = envelope.seal(new Secret(''), context)
    expect(envelope.open(sealed, context).reveal()).toBe('')
    expectCorrupt(sealed.subarray(0, -12))
  })

  it('a text sealed by the same key without the associated data', () => {
    const [salt, iv] = [randomBytes(32), randomBytes(12)]
    const ikm = Buffer.from(secretText, 'base64')
    const recordKey = new Uint8Array(hkdfSync('sha256', ikm, salt, 'onbehalf/v1/record', 32))
    const encryptor = createCipheriv('aes-256-gcm', recordKey, iv, { authTagLength: 16 })
    const ciphertext = Buffer.concat([encryptor.update(text), encryptor.final()])
    const head = Buffer.from([0xb7, 1, 2, 0x6b, 0x31])
    expectCorrupt(Buffer.concat([head, salt, iv, ciphertext, encryptor.getAuthTag()]))
  })

  it('says nothing of the value in its error', () => {
    const sealed = flipBit(sealedText(), 500)
    try {
      envelope.open(sealed, context)
      expect.unreachable()
    } catch (error) {
      expect(String(error)).toBe('BrokerError: credential_corrupt')
      expect(String((error as Error).cause)).toBe('Error: sealed value: does not authenticate')
    }
  })
})

function sealedText(): Buffer {
  return envelope.seal(new Secret(text), context)
}

function withByte(at: number, value: number): Buffer {
  const sealed = sealedText()
  sealed[at] = value
  return sealed
}

function flipBit(sealed: Buffer, bit: number): Buffer {
  const mutant = Buffer.from(sealed)
  mutant[bit >> 3] = (mutant[bit >> 3] ?? 0) ^ (1 << (bit & 7))
  return mutant
}

function mutate(
  sealed: Buffer,
  round: number,
  below: (limit: number) => number,
): readonly [string, Buffer] {
  const at = below(sealed.length)
  switch (round % 6) {
    case 0:
      return [`flips bit ${at}`, flipBit(sealed, below(sealed.length * 8))]
    case 1:
      return [`cuts at ${at}`, sealed.subarray(0, at)]
    case 2:
      return [`drops the first ${at + 1}`, sealed.subarray(at + 1)]
    case 3:
      return [
        `inserts a byte at ${at}`,
        Buffer.concat([sealed.subarray(0, at), Buffer.of(below(256)), sealed.subarray(at)]),
      ]
    case 4: {
      const mutant = Buffer.from(sealed)
      mutant.fill(below(256), at, Math.min(at + 1 + below(16), mutant.length))
      return [`fills from ${at}`, mutant]
    }
    default: {
      const other = sealedText()
      const cut = 6 + below(sealed.length - 6)
      return [
        `splices two values at ${cut}`,
        Buffer.concat([sealed.subarray(0, cut), other.subarray(cut)]),
      ]
    }
  }
}

function isRefused(sealed: Uint8Array, where: SealingContext): boolean {
  try {
    envelope.open(sealed, where)
    return false
  } catch (error) {
    return isBrokerError(error, 'credential_corrupt')
  }
}

function expectCorrupt(sealed: Uint8Array, where: SealingContext = context): void {
  expect(isRefused(sealed, where)).toBe(true)
}
