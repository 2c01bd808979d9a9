import { describe, expect, it } from 'vitest'
import type { FailureVerdict } from '../../../src/core/failure-verdict.ts'
import { OutboundFailure } from '../../../src/core/ports/http-client.ts'
import {
  retryAfterOf,
  verdictOfAnswer,
  verdictOfOutboundFailure,
} from '../../../src/oauth/failure.ts'
import { type GrantKind, readTokenAnswer } from '../../../src/oauth/token-answer.ts'

const now = new Date('2026-11-21T12:00:00Z')

function verdict(
  grant: GrantKind,
  status: number,
  body: unknown,
  headers: Readonly<Record<string, string>> = {},
): FailureVerdict {
  const text = typeof body === 'string' ? body : JSON.stringify(body)
  const response = { status, headers, body: text }
  const answer = readTokenAnswer(response, {
    grant,
    requestedAt: now,
    tokenAnswerMember: undefined,
    defaultLifetimeSeconds: 3600,
  })
  if (answer.kind === 'tokens') throw new Error('this is no failure')
  return verdictOfAnswer(response, answer, grant, now)
}

const complete: FailureVerdict = { kind: 'retry_at', answer: 'complete' }
const lost: FailureVerdict = { kind: 'retry_at', answer: 'lost' }
const misconfigured: FailureVerdict = { kind: 'misconfigured' }
const interaction: FailureVerdict = { kind: 'interaction_required' }
const denied: FailureVerdict = { kind: 'denied' }
const refused: FailureVerdict = { kind: 'subject_token_refused' }
const refreshFailed: FailureVerdict = { kind: 'reconnect', reason: 'refresh_failed' }
const notConnected: FailureVerdict = { kind: 'reconnect', reason: 'not_connected' }

describe('verdicts: a word of the server', () => {
  it.each<[string, FailureVerdict, FailureVerdict, FailureVerdict]>([
    // error, refresh, code, exchange
    ['invalid_grant', refreshFailed, notConnected, refused],
    ['bad_refresh_token', refreshFailed, notConnected, refused],
    ['invalid_refresh_token', refreshFailed, notConnected, refused],
    ['token_revoked', refreshFailed, notConnected, refused],
    ['bad_verification_code', refreshFailed, notConnected, refused],
    ['invalid_client', misconfigured, misconfigured, misconfigured],
    ['unauthorized_client', misconfigured, misconfigured, misconfigured],
    ['unsupported_grant_type', misconfigured, misconfigured, misconfigured],
    ['invalid_scope', misconfigured, misconfigured, misconfigured],
    ['invalid_target', misconfigured, misconfigured, misconfigured],
    ['incorrect_client_credentials', misconfigured, misconfigured, misconfigured],
    ['redirect_uri_mismatch', misconfigured, misconfigured, misconfigured],
    ['invalid_request', complete, complete, refused],
    ['invalid_token', complete, complete, refused],
    ['access_denied', complete, { kind: 'reconnect', reason: 'access_denied' }, denied],
    ['interaction_required', interaction, interaction, interaction],
    ['consent_required', interaction, interaction, interaction],
    ['login_required', interaction, interaction, interaction],
    ['temporarily_unavailable', complete, complete, complete],
    ['slow_down', complete, complete, complete],
    ['some_new_word', complete, complete, complete],
    ['INVALID_GRANT', complete, complete, complete],
    ['__proto__', complete, complete, complete],
  ])('M-N6: %s', (error, refresh, code, exchange) => {
    for (const status of [200, 400, 401, 403]) {
      const body = { error, error_description: 'CNRY' }
      expect(verdict('refresh', status, body)).toEqual(refresh)
      expect(verdict('code', status, body)).toEqual(code)
      expect(verdict('exchange', status, body)).toEqual(exchange)
    }
  })
})

describe('a status', () => {
  it.each([429, 500, 502, 503, 504, 599])('%i is passing, whatever the body says', (status) => {
    for (const body of ['', '<html>', { error: 'invalid_grant' }, { access_token: 'at' }]) {
      expect(verdict('refresh', status, body)).toEqual(complete)
    }
  })

  it.each([400, 401, 403, 404, 405, 413, 415])('%i without a known error is passing', (status) => {
    for (const body of ['', '<html>', 'nope', {}, { message: 'no' }, { error: {} }]) {
      expect(verdict('refresh', status, body)).toEqual(complete)
    }
  })

  it.each([200, 201, 204])('V6: %i without a readable token is a lost answer', (status) => {
    for (const body of ['', '<html>', '{"access_token":', {}, { access_token: 'a\nb' }]) {
      expect(verdict('refresh', status, body)).toEqual(lost)
    }
  })

  it.each([301, 302, 307, 308])('%i is an answer that brought nothing', (status) => {
    expect(verdict('refresh', status, '')).toEqual(complete)
  })
})

describe('V4: Retry-After', () => {
  it.each([
    ['120', 120],
    [' 120 ', 120],
    ['0', 1],
    ['900', 900],
    ['901', 900],
    ['99999999999999999999', 900],
    ['Sat, 21 Nov 2026 12:02:00 GMT', 120],
    ['Saturday, 21-Nov-26 12:02:00 GMT', 120],
    ['Sat, 21 Nov 2026 11:00:00 GMT', 1],
    ['Sat, 21 Nov 2037 11:00:00 GMT', 900],
    ['', undefined],
    ['soon', undefined],
    ['-5', undefined],
    ['1.5', undefined],
    ['1e3', undefined],
    ['Sat, 99 Foo 2026', undefined],
    ['120, 60', undefined],
  ])('%j is %s seconds', (header, seconds) => {
    expect(retryAfterOf(header, now)).toBe(seconds)
  })

  it('counts with 429 and 503 only', () => {
    const headers = { 'retry-after': '60' }
    for (const status of [429, 503]) {
      expect(verdict('refresh', status, '', headers)).toEqual({
        ...complete,
        retryAfterSeconds: 60,
      })
    }
    for (const status of [400, 500, 502]) {
      expect(verdict('refresh', status, '', headers)).toEqual(complete)
    }
    expect(verdict('refresh', 429, '', { 'retry-after': 'soon' })).toEqual(complete)
  })
})

describe('Entra’s numbers', () => {
  it.each<[number, string, FailureVerdict, FailureVerdict]>([
    // number, error, exchange, refresh
    [65001, 'invalid_grant', interaction, interaction],
    [65004, 'invalid_grant', interaction, interaction],
    [90094, 'invalid_grant', interaction, interaction],
    [50076, 'interaction_required', interaction, interaction],
    [50079, 'invalid_grant', interaction, interaction],
    [50158, 'interaction_required', interaction, interaction],
    [53000, 'interaction_required', denied, denied],
    [53003, 'invalid_grant', denied, denied],
    [530032, 'access_denied', denied, denied],
    [50013, 'invalid_grant', refused, refreshFailed],
    [500133, 'invalid_grant', refused, refreshFailed],
    [700082, 'invalid_grant', refused, refreshFailed],
    [50173, 'invalid_grant', refused, refreshFailed],
    [500131, 'invalid_grant', misconfigured, misconfigured],
    [7000215, 'invalid_client', misconfigured, misconfigured],
    [700016, 'unauthorized_client', misconfigured, misconfigured],
    [70011, 'invalid_scope', misconfigured, misconfigured],
    [9010010, 'invalid_request', misconfigured, misconfigured],
    [50196, 'invalid_grant', complete, complete],
    [90033, 'temporarily_unavailable', complete, complete],
    [12345, 'invalid_grant', refused, refreshFailed],
  ])('%i with %s', (code, error, exchange, refresh) => {
    const body = { error, error_codes: [code], error_description: `AADSTS${code}: CNRY` }
    expect(verdict('exchange', 400, body)).toEqual(exchange)
    expect(verdict('refresh', 400, body)).toEqual(refresh)
  })

  it('a challenge asks for the person, and is kept for the next sign-in', () => {
    const claims = '{"access_token":{"capolids":{"essential":true}}}'
    const found = verdict('exchange', 400, { error: 'interaction_required', claims })
    expect(found.kind === 'interaction_required' && found.claims?.reveal()).toBe(claims)
    const odd = verdict('exchange', 400, { error: 'invalid_grant', claims })
    expect(odd.kind).toBe('interaction_required')
  })

  it('a challenge that is none is left out', () => {
    for (const claims of ['not json', '[1]', { a: 1 }]) {
      expect(verdict('exchange', 400, { error: 'interaction_required', claims })).toEqual(
        interaction,
      )
      expect(verdict('exchange', 400, { error: 'invalid_grant', claims })).toEqual(refused)
    }
  })

  it('consent as a suberror asks for the person', () => {
    const body = { error: 'invalid_grant', suberror: 'consent_required' }
    expect(verdict('exchange', 400, body)).toEqual(interaction)
  })

  it('the directory’s policy is final, also beside a challenge', () => {
    const body = { error: 'interaction_required', error_codes: [53003], claims: '{"a":1}' }
    expect(verdict('exchange', 400, body)).toEqual(denied)
  })
})

describe('no answer', () => {
  it('says what is known of the request', () => {
    expect(verdictOfOutboundFailure(new OutboundFailure('lost'))).toEqual(lost)
    expect(verdictOfOutboundFailure(new OutboundFailure('not_sent'))).toEqual({
      kind: 'retry_at',
      answer: 'not_sent',
    })
    expect(
      verdictOfOutboundFailure(new OutboundFailure('not_sent', { addressRefused: true })),
    ).toEqual({ kind: 'retry_at', answer: 'not_sent', addressRefused: true })
  })
})
