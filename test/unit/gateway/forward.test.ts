import { expect, it } from 'vitest'
import { createForwarder } from '../../../src/gateway/forward.ts'
import { createOpenCalls } from '../../../src/gateway/open-calls.ts'
import { Secret } from '../../../src/core/secret.ts'
import type { GatewayCall, StreamedAnswer } from '../../../src/core/ports/gateway.ts'
import type { Upstream } from '../../../src/core/upstream.ts'

it('P13: a credential that was taken away before its call was open is not sent', async () => {
  let sent = 0
  let isCut = false
  const forwarder = createForwarder({
    resolver: {
      resolve: () => {
        throw new Error('nothing is resolved here')
      },
    },
    upstreamClient: {
      send(_request, receiver) {
        sent += 1
        queueMicrotask(() => {
          receiver.head({ status: 204, headers: {} })
          receiver.end()
        })
        return { resume() {}, abort() {} }
      },
      close: async () => {},
    },
    openCalls: createOpenCalls(),
    isCut: () => isCut,
  })
  const answer: StreamedAnswer = {
    begin() {},
    write: () => true,
    end() {},
    cut() {},
    onDrain() {},
    onGone() {},
  }
  const upstream = { name: 'files', timeouts: { idleMs: 1000 }, credential: { mode: 'user_key' } }
  const call = {
    person: { issuer: 'https://login.example.com', userId: 'ada' },
    bearer: new Secret('inbound'),
    upstream: upstream as unknown as Upstream,
    answer,
  } as unknown as GatewayCall
  const forward = () =>
    forwarder.forward(
      {
        call,
        method: 'GET',
        target: '/',
        headers: [],
        body: { kind: 'whole', content: undefined },
        answer,
        whenGone: 'abort',
      },
      { header: 'Authorization', value: 'Bearer x', expiresAt: undefined, fingerprint: 'f' },
    )
  expect(await forward()).toBe('done')
  isCut = true
  await expect(forward()).rejects.toMatchObject({ code: 'connect_required' })
  expect(sent).toBe(1)
})
