import { describe, expect, it } from 'vitest'
import { Secret } from '../../src/core/secret.ts'
import { createLog } from '../../src/log.ts'

function written(write: (log: ReturnType<typeof createLog>) => void): readonly string[] {
  const lines: string[] = []
  write(createLog((text) => lines.push(text)))
  return lines
}

describe('the log', () => {
  it('T-13: is one JSON object a line, whatever a field holds', () => {
    const lines = written((log) => {
      log.info({ event: 'ready', url: 'http://127.0.0.1:1\n{"event":"forged"}' })
      log.warn({ event: 'issuer_keys_unavailable', failure: 'unreachable' })
      log.error({ event: 'request_failed', error_class: 'TypeError', status: 500 })
    })
    expect(lines.every((line) => line.indexOf('\n') === line.length - 1)).toBe(true)
    const [first, second, third] = lines.map((line) => JSON.parse(line) as object)
    expect(first).toMatchObject({ level: 'info', event: 'ready' })
    expect(second).toMatchObject({ level: 'warn', failure: 'unreachable' })
    expect(third).toMatchObject({ level: 'error', error_class: 'TypeError', status: 500 })
    expect(first).toMatchObject({ time: expect.stringMatching(/^\d{4}-.*Z$/) as string })
  })

  it('T-13: shows nothing of a secret or of an error that came into it, nested or not', () => {
    const secret = new Secret('CNRY-AT-of-somebody')
    const error = Object.assign(new Error('CNRY-RT in a message'), {
      code: 'E_CODE',
      parameters: ['CNRY-CS as a value'],
      cause: new Error('CNRY-CODE in a cause'),
    })
    const text = written((log) => {
      log.warn({ event: 'a', token: secret, inside: { list: [secret], url: String(secret) } })
      log.error({ event: 'b', error })
      log.error({ event: 'c', err: error })
      log.error({ event: 'd', inside: { err: error, list: [error] } })
      log.error({ event: 'e', cause: error })
    }).join('')
    expect(text).toContain('[secret]')
    expect(text).toContain('{"error_class":"Error","code":"E_CODE"}')
    expect(text).not.toContain('CNRY')
    expect(text.split('\n')).toHaveLength(6)
  })
})
