import { describe, expect, it } from 'vitest'
import { BrokerError } from '../../src/core/errors.ts'
import {
  adaToken,
  adminToken,
  createHttpRoom,
  readingKey,
  serviceKey,
} from '../support/http-room.ts'

const { app, room } = createHttpRoom()

const get = (path: string, token?: string) =>
  app.request(`https://broker.example.com/api/v1/activity/${path}`, {
    headers: token === undefined ? {} : { authorization: `Bearer ${token}` },
  })

const counts = { records: 20, writers: 2, unchained: 3, removed: 4, checkpoints: 5 }

describe('the proof of the activity log over HTTP', () => {
  it.each(['keys', 'verify'])('%s is for who may read the log, and nobody else', async (path) => {
    expect((await get(path)).status).toBe(401)
    expect((await get(path, adaToken)).status).toBe(403)
    expect((await get(path, serviceKey)).status).toBe(403)
    expect((await get(path, adminToken)).status).toBe(200)
    expect((await get(path, readingKey)).status).toBe(200)
  })

  it('keys are a JSON Web Key Set, old ones too', async () => {
    const key = { kty: 'OKP', crv: 'Ed25519', alg: 'EdDSA', use: 'sig' } as const
    const createdAt = new Date('2026-11-21T12:00:00Z')
    room.signingKeys = ['one', 'two'].map((kid) => ({ ...key, kid, x: `x-${kid}`, createdAt }))
    const answer = await get('keys', adminToken)
    expect(await answer.json()).toEqual({
      keys: ['one', 'two'].map((kid) => ({
        ...key,
        kid,
        x: `x-${kid}`,
        created_at: '2026-11-21T12:00:00.000Z',
      })),
    })
  })

  it('verify gives what is wrong, a line each, and the result as the last', async () => {
    const finding = { kind: 'removed', writer: 'w', seq: 3, through: 5 } as const
    room.verify = async () => ({ findings: [finding], ...counts })
    const answer = await get('verify', adminToken)
    expect(answer.headers.get('content-type')).toBe('application/x-ndjson')
    const lines = (await answer.text()).trimEnd().split('\n')
    expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual([
      finding,
      { ok: false, ...counts },
    ])
    room.verify = async () => ({ findings: [], ...counts })
    expect(await (await get('verify', adminToken)).text()).toBe(
      `${JSON.stringify({ ok: true, ...counts })}\n`,
    )
  })

  it('verify that fails says so', async () => {
    room.verify = () => Promise.reject(new BrokerError('storage_unavailable'))
    expect((await get('verify', adminToken)).status).toBe(503)
  })
})
