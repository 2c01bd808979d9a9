import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { GatewaySessionRecord } from '../../../src/core/ports/gateway-session-records.ts'
import { createSessionMemory } from '../../../src/gateway/mcp/session-memory.ts'

const session: GatewaySessionRecord = {
  issuer: 'https://login.example.com',
  userId: 'ada',
  upstream: 'files',
  idHash: Buffer.from('hash'),
  initialize: {},
  revision: '2025-11-25',
  at: { sealedId: undefined, revision: '2025-11-25' },
}
const away = () => Promise.reject(new Error('the database is away'))

describe('sessions in memory', () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['performance'] })
  })
  afterEach(() => {
    vi.useRealTimers()
  })

  it('are there however long ago they were read, and with the database away', async () => {
    const memory = createSessionMemory()
    await memory.load('ada', 'one', async () => session)
    vi.advanceTimersByTime(24 * 60 * 60_000)
    expect(memory.load('ada', 'one', away)).toBe(session)
    expect(memory.load('ada', 'one', away)).toBe(session)
  })

  it('are read again beside a call after a while, and gone then where they have ended', async () => {
    const memory = createSessionMemory()
    const find = vi.fn(async () => session)
    await memory.load('ada', 'one', find)
    void memory.load('ada', 'one', find)
    expect(find).toHaveBeenCalledTimes(1)
    vi.advanceTimersByTime(10 * 60_000)
    expect(memory.load('ada', 'one', async () => undefined)).toBe(session)
    await Promise.resolve()
    expect(await memory.load('ada', 'one', async () => undefined)).toBeUndefined()
  })

  it('are not there once they were forgotten, nor when that came while they were read', async () => {
    const memory = createSessionMemory()
    await memory.load('ada', 'one', async () => session)
    memory.forget('ada')
    const ended = async () => undefined
    expect(await memory.load('ada', 'one', ended)).toBeUndefined()
    const reading = memory.load('ada', 'one', async () => session)
    memory.forgetAll()
    await reading
    expect(await memory.load('ada', 'one', ended)).toBeUndefined()
  })

  it('that nobody has opened at the upstream yet are read each time', async () => {
    const memory = createSessionMemory()
    const find = vi.fn(async () => ({ ...session, at: undefined }))
    await memory.load('ada', 'one', find)
    await memory.load('ada', 'one', find)
    expect(find).toHaveBeenCalledTimes(2)
  })

  it('are the latest twenty of a person with an upstream', async () => {
    const memory = createSessionMemory()
    for (let index = 0; index <= 20; index += 1) {
      await memory.load('ada', String(index), async () => session)
    }
    expect(memory.load('ada', '20', away)).toBe(session)
    await expect(memory.load('ada', '0', away)).rejects.toThrow('away')
  })
})
