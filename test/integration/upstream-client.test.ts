import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { UpstreamExchange } from '../../src/core/ports/upstream-client.ts'
import { createUpstreamClient } from '../../src/outbound/upstream-client.ts'
import { upstream as upstreamOf } from '../support/http-room.ts'
import { type PlainUpstream, startPlainUpstream } from '../support/plain-upstream.ts'

describe('a call to an upstream', () => {
  let upstream: PlainUpstream
  const client = createUpstreamClient({ log: () => {} })

  beforeAll(async () => {
    upstream = await startPlainUpstream()
  })
  afterAll(async () => {
    await client.close()
    await upstream.stop()
  })

  it('tells of bytes only: a reader that pulls anew for each piece would pull for ever for empty ones', async () => {
    const whole = Buffer.alloc(500_000, 'x')
    upstream.answerWith((_request, response) => response.end(whole))
    const pieces: number[] = []
    await new Promise<void>((resolve, reject) => {
      const exchange: UpstreamExchange = client.send(
        {
          upstream: upstreamOf('large', { url: upstream.url, allowPrivateNetwork: true }),
          method: 'GET',
          target: '/',
          headers: [],
          body: undefined,
        },
        {
          head: () => {},
          data(chunk) {
            pieces.push(chunk.length)
            // In the same turn, as a stream pulls; not for ever.
            const goOn = pieces.length < 1000 ? queueMicrotask : setImmediate
            goOn(() => exchange.resume())
            return false
          },
          end: resolve,
          failed: reject,
        },
      )
    })
    expect(pieces).not.toContain(0)
    expect(pieces.reduce((sum, length) => sum + length, 0)).toBe(whole.length)
  })
})
