import { describe, expect, it } from 'vitest'
import { createArrivals } from '../../../src/core/arrivals.ts'
import { deferred } from './deferred.ts'

describe('answers that arrive while their person disconnects', () => {
  it('are kept where nobody disconnected', async () => {
    const arrivals = createArrivals()
    await arrivals.refuse('ada')
    const arrived = await arrivals.receive('ada', {
      ask: () => Promise.resolve('token'),
      keep: (token) => Promise.resolve(`${token} kept`),
    })
    expect(arrived).toEqual({ kept: 'token kept' })
  })

  it('are refused, every one that was waited for, and only of that key', async () => {
    const arrivals = createArrivals()
    const answer = deferred<string>()
    const kept: string[] = []
    const receive = (key: string) =>
      arrivals.receive(key, {
        ask: () => answer.promise,
        keep: async (token) => kept.push(`${key} ${token}`),
      })
    const waiting = [receive('ada'), receive('ada'), receive('grace')]
    await arrivals.refuse('ada')
    answer.resolve('token')
    expect(await Promise.all(waiting)).toEqual([
      { refused: 'token' },
      { refused: 'token' },
      { kept: 1 },
    ])
    expect(kept).toEqual(['grace token'])
  })

  it('that are just being kept are waited for, so that the removal finds them', async () => {
    const arrivals = createArrivals()
    const stored = deferred<void>()
    const order: string[] = []
    const receiving = arrivals.receive('ada', {
      ask: () => Promise.resolve('token'),
      keep: async () => {
        await stored.promise
        order.push('kept')
      },
    })
    await new Promise((resolve) => setImmediate(resolve))
    const refusing = arrivals.refuse('ada').then(() => order.push('refused'))
    stored.resolve()
    await Promise.all([receiving, refusing])
    expect(order).toEqual(['kept', 'refused'])
  })

  it('a failure passes, of the question and of the keeping', async () => {
    const arrivals = createArrivals()
    const fail = () => Promise.reject(new Error('no'))
    const keep = () => Promise.resolve()
    await expect(arrivals.receive('ada', { ask: fail, keep })).rejects.toThrow('no')
    const ask = () => Promise.resolve('token')
    await expect(arrivals.receive('ada', { ask, keep: fail })).rejects.toThrow('no')
    await arrivals.refuse('ada')
  })
})
