import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import type { UpstreamServerRecord } from '../../../src/core/ports/gateway-session-records.ts'
import { createKnownServers } from '../../../src/gateway/mcp/known-servers.ts'

const told: UpstreamServerRecord = { revisions: ['2026-07-28'], capabilities: {} }

describe('what is known of upstreams', () => {
  let read: () => Promise<UpstreamServerRecord>
  const servers = () =>
    createKnownServers({
      records: { find: () => read(), note: async () => {} },
      forwarder: {
        forward: async () => 'done',
        refuseCut: async () => {},
      },
    })

  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['performance'] })
    read = async () => told
  })
  afterEach(() => {
    vi.useRealTimers()
  })

  it('is there with the database away, however long ago it was read', async () => {
    const known = servers()
    await known.find('files')
    read = () => Promise.reject(new Error('the database is away'))
    vi.advanceTimersByTime(60_000)
    expect(known.find('files')).toBe(told)
    await Promise.resolve()
    expect(known.find('files')).toBe(told)
  })

  it('is what another replica noted since, also where it is asked for all the time', async () => {
    const known = servers()
    await known.find('files')
    const news: UpstreamServerRecord = { revisions: [], capabilities: {} }
    read = async () => news
    for (let second = 0; second < 9; second += 1) {
      vi.advanceTimersByTime(1000)
      expect(known.find('files')).toBe(told)
    }
    vi.advanceTimersByTime(1000)
    expect(known.find('files')).toBe(told)
    await vi.waitFor(() => expect(known.find('files')).toBe(news))
  })
})
