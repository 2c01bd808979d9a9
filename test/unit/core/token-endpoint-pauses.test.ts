import { describe, expect, it } from 'vitest'
import { createTokenEndpointPauses } from '../../../src/core/token-endpoint-pauses.ts'
import { createFakeClock } from '../../support/fake-clock.ts'

const server = 'https://as.example.com'
const passing = { kind: 'retry_at', answer: 'complete' } as const

function pausesWith(random: () => number) {
  const clock = createFakeClock()
  return { clock, pauses: createTokenEndpointPauses({ clock, random }) }
}

describe('pauses of a token endpoint', () => {
  it('a server that names a time pauses for everybody who asks it, and for nobody else', () => {
    const { clock, pauses } = pausesWith(() => 0)
    pauses.failed(server, 'ada', { ...passing, retryAfterSeconds: 120 })
    expect(pauses.remainingSeconds(server, 'grace')).toBe(120)
    expect(pauses.isFailing(server, 'grace')).toBe(true)
    expect(pauses.remainingSeconds('https://other.example.com', 'ada')).toBeUndefined()
    clock.advance(119)
    expect(pauses.remainingSeconds(server, 'grace')).toBe(1)
    clock.advance(1)
    expect(pauses.remainingSeconds(server, 'grace')).toBeUndefined()
    expect(pauses.isFailing(server, 'grace')).toBe(false)
  })

  it('a time that a server named while a person connected counts too', () => {
    const { pauses } = pausesWith(() => 0)
    expect(pauses.paused(server, passing)).toBeUndefined()
    expect(pauses.remainingSeconds(server, 'ada')).toBeUndefined()
    pauses.paused(server, { ...passing, retryAfterSeconds: 7 })
    expect(pauses.remainingSeconds(server, 'ada')).toBe(7)
  })

  it('a shorter time does not shorten a longer one', () => {
    const { pauses } = pausesWith(() => 0)
    pauses.failed(server, 'ada', { ...passing, retryAfterSeconds: 120 })
    pauses.failed(server, 'grace', { ...passing, retryAfterSeconds: 5 })
    expect(pauses.remainingSeconds(server, 'ada')).toBe(120)
  })

  it('without one, only the connection that failed waits', () => {
    const { pauses } = pausesWith(() => 0.5)
    pauses.failed(server, 'ada', passing)
    expect(pauses.remainingSeconds(server, 'ada')).toBeGreaterThanOrEqual(1)
    expect(pauses.remainingSeconds(server, 'grace')).toBeUndefined()
  })

  it.each([
    [0, [1, 1, 1, 1, 1, 1, 1]],
    [1, [2, 4, 8, 16, 30, 30, 30]],
  ])(
    'full jitter over a window that doubles from 2 s up to 30 s (random %d)',
    (random, seconds) => {
      const { clock, pauses } = pausesWith(() => random)
      const waited = seconds.map(() => {
        const untilMs = pauses.failed(server, 'ada', passing).getTime()
        return (untilMs - clock.now().getTime()) / 1000
      })
      expect(waited).toEqual(seconds)
    },
  )

  it('a success, and a minute without a try, begin again', () => {
    const { clock, pauses } = pausesWith(() => 1)
    const wait = () =>
      (pauses.failed(server, 'ada', passing).getTime() - clock.now().getTime()) / 1000
    expect([wait(), wait()]).toEqual([2, 4])
    pauses.succeeded('ada')
    expect(pauses.remainingSeconds(server, 'ada')).toBeUndefined()
    expect(pauses.isFailing(server, 'ada')).toBe(false)
    expect([wait(), wait()]).toEqual([2, 4])
    clock.advance(65)
    expect(wait()).toBe(2)
  })

  it('what no waiting mends pauses nobody, but is known to fail', () => {
    const { clock, pauses } = pausesWith(() => 1)
    pauses.misconfigured('ada')
    expect(pauses.remainingSeconds(server, 'ada')).toBeUndefined()
    expect(pauses.isFailing(server, 'ada')).toBe(true)
    expect(pauses.isFailing(server, 'grace')).toBe(false)
    const refused = { kind: 'retry_at', answer: 'not_sent', addressRefused: true } as const
    expect(pauses.failed(server, 'grace', refused)).toEqual(clock.now())
    expect(pauses.remainingSeconds(server, 'grace')).toBeUndefined()
  })
})
