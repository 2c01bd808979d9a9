import { describe, expect, it } from 'vitest'
import { freshnessOf, renewalDueAtMs } from '../../../src/core/credential.ts'

const obtainedAt = new Date('2026-11-21T12:00:00Z')
const after = (seconds: number) => new Date(obtainedAt.getTime() + seconds * 1000)
const settings = { refreshBeforeSeconds: 60 }
const first = { obtainedAt, expiresAt: after(3600), renewed: false }

describe('freshness of a credential', () => {
  it.each([
    [0, 'valid'],
    [3539, 'valid'],
    [3540, 'ending'],
    [3599, 'ending'],
    [3600, 'ended'],
    [9999, 'ended'],
  ] as const)('of an hour is, after %i s with refresh_before 60s, %s', (seconds, freshness) => {
    expect(freshnessOf(first, settings, after(seconds))).toBe(freshness)
  })

  it('without an end is valid for ever', () => {
    const endless = { ...first, expiresAt: undefined }
    expect(freshnessOf(endless, settings, after(1e9))).toBe('valid')
    expect(renewalDueAtMs(endless, settings)).toBe(Number.POSITIVE_INFINITY)
  })

  it('shorter than refresh_before is to be renewed at once when it is a first one', () => {
    const short = { ...first, expiresAt: after(40) }
    expect(freshnessOf(short, settings, after(0))).toBe('ending')
  })

  it('from a refresh is not renewed early before half of its life is over', () => {
    const short = { obtainedAt, expiresAt: after(40), renewed: true }
    expect(freshnessOf(short, settings, after(19))).toBe('valid')
    expect(freshnessOf(short, settings, after(20))).toBe('ending')
    expect(freshnessOf(short, settings, after(40))).toBe('ended')
  })

  it('from a refresh keeps refresh_before where that is later than half of its life', () => {
    expect(freshnessOf({ ...first, renewed: true }, settings, after(1800))).toBe('valid')
    expect(freshnessOf({ ...first, renewed: true }, settings, after(3540))).toBe('ending')
  })
})
