import { describe, expect, it } from 'vitest'
import type { OutboundResponse } from '../../../src/core/ports/http-client.ts'
import {
  readTokenAnswer,
  type TokenAnswer,
  type TokenAnswerRules,
} from '../../../src/oauth/token-answer.ts'

const requestedAt = new Date('2026-11-21T12:00:00Z')

function read(
  body: unknown,
  rules: Partial<TokenAnswerRules> = {},
  response: Partial<OutboundResponse> = {},
): TokenAnswer {
  return readTokenAnswer(
    {
      status: 200,
      headers: {},
      body: typeof body === 'string' ? body : JSON.stringify(body),
      ...response,
    },
    {
      grant: 'code',
      requestedAt,
      tokenAnswerMember: undefined,
      defaultLifetimeSeconds: 3600,
      ...rules,
    },
  )
}

/** The tokens of a readable answer, in clear. */
function tokensOf(body: unknown, rules: Partial<TokenAnswerRules> = {}) {
  const answer = read(body, rules)
  if (answer.kind !== 'tokens') throw new Error(answer.kind)
  const { tokens } = answer
  return {
    ...tokens,
    accessToken: tokens.accessToken.reveal(),
    refreshToken: tokens.refreshToken?.reveal(),
  }
}

function after(seconds: number): Date {
  return new Date(requestedAt.getTime() + seconds * 1000)
}

describe('a success', () => {
  it('is JSON with everything', () => {
    expect(
      tokensOf({
        access_token: 'at',
        refresh_token: 'rt',
        token_type: 'Bearer',
        expires_in: 3600,
        scope: 'files:read files:write',
        unknown: { anything: [1] },
      }),
    ).toEqual({
      accessToken: 'at',
      refreshToken: 'rt',
      expiresAt: after(3600),
      scopes: ['files:read', 'files:write'],
      account: undefined,
    })
  })

  it('H-L2: is a form where the server sends one, whatever it calls it', () => {
    expect(
      tokensOf('access_token=a%2Bt&expires_in=28800&refresh_token=rt&scope=repo%2Cgist'),
    ).toEqual({
      accessToken: 'a+t',
      refreshToken: 'rt',
      expiresAt: after(28_800),
      scopes: ['repo', 'gist'],
      account: undefined,
    })
  })

  it('may have a byte order mark and white space around it', () => {
    expect(tokensOf('\uFEFF\r\n {"access_token":"at"} \n').accessToken).toBe('at')
  })

  it.each([
    [3600, 3600],
    ['3600', 3600],
    [' 3600 ', 3600],
    ['3599.9', 3599],
    [0.5, 1],
    [1, 1],
    [1e99, 3650 * 86_400],
    ['99999999999999999999', 3650 * 86_400],
  ])('takes the lifetime %j as %d seconds from the request on', (expires_in, seconds) => {
    expect(tokensOf({ access_token: 'at', expires_in }).expiresAt).toEqual(after(seconds))
  })

  it.each([undefined, null, 0, '0', -1, '-1', '', 'soon', 'NaN', {}, [], true])(
    'C20: takes the lifetime %j as none said',
    (expires_in) => {
      const answer = { access_token: 'at', expires_in }
      expect(tokensOf(answer).expiresAt).toBeUndefined()
      expect(tokensOf({ ...answer, refresh_token: 'rt' }).expiresAt).toEqual(after(3600))
      expect(tokensOf(answer, { grant: 'refresh' }).expiresAt).toEqual(after(3600))
      const tenMinutes = { grant: 'refresh', defaultLifetimeSeconds: 600 } as const
      expect(tokensOf(answer, tenMinutes).expiresAt).toEqual(after(600))
    },
  )

  it('takes a lifetime beyond the numbers as the longest', () => {
    expect(tokensOf('{"access_token":"at","expires_in":1e400}').expiresAt).toEqual(
      after(3650 * 86_400),
    )
  })

  it('M-S9: never ends when nothing is said and nothing renews it', () => {
    expect(tokensOf({ access_token: 'at' }).expiresAt).toBeUndefined()
  })

  it.each([undefined, null, '', 'Bearer', 'bearer', 'BEARER', ' Bearer ', 7])(
    'takes the token type %j as a bearer’s',
    (token_type) => {
      expect(tokensOf({ access_token: 'at', token_type }).accessToken).toBe('at')
    },
  )

  it.each([
    ['a b', ['a', 'b']],
    ['a,b', ['a', 'b']],
    ['a, b', ['a', 'b']],
    [' a  a b ', ['a', 'b']],
    [
      ['a', 'b'],
      ['a', 'b'],
    ],
    ['', undefined],
    [' ', undefined],
    [undefined, undefined],
    [null, undefined],
    [7, undefined],
    [[1, 2], undefined],
    ['a"b', undefined],
    ['<script>\\', undefined],
    ['a'.repeat(300), undefined],
    [Array.from({ length: 600 }, (_, index) => `s${index}`).join(' '), undefined],
  ])('takes the scope %j as %j', (scope, scopes) => {
    expect(tokensOf({ access_token: 'at', scope }).scopes).toEqual(scopes)
  })

  it('M-N7: without a refresh token names none, so that the old one goes on', () => {
    for (const refresh_token of [undefined, null, '']) {
      expect(tokensOf({ access_token: 'at', refresh_token }).refreshToken).toBeUndefined()
    }
  })

  it('ignores what it says about the refresh token’s own life', () => {
    const answer = { access_token: 'at', refresh_token: 'rt', expires_in: 60 }
    for (const refresh_expires_in of [0, 1800, 'x']) {
      expect(tokensOf({ ...answer, refresh_expires_in })).toMatchObject({ expiresAt: after(60) })
    }
  })
})

describe('what no success is', () => {
  it.each([
    '',
    ' ',
    '<!DOCTYPE html><html><form action="a=b"></html>',
    'access_token',
    'Internal Server Error',
    '{"access_token":"at"',
    '["access_token"]',
    '"access_token"',
    'null',
    '7',
    '{}',
    'a=b',
    '[[['.repeat(50_000),
  ])('C20: %.40s', (body) => {
    expect(read(body)).toEqual({ kind: 'unreadable' })
  })

  it.each([
    undefined,
    null,
    '',
    7,
    {},
    ['at'],
    'a b',
    'at\r\nX-Injected: 1',
    'at\n',
    'at\u0000',
    'ät',
    'a\u2028t',
    'a'.repeat(16_385),
  ])('C20: the access token %.30j', (access_token) => {
    expect(read({ access_token })).toEqual({ kind: 'unreadable' })
  })

  it('takes a token of 16 KiB and no more', () => {
    expect(tokensOf({ access_token: 'a'.repeat(16_384) }).accessToken).toHaveLength(16_384)
  })

  it.each([7, {}, 'r t', 'rt\r\n', 'r'.repeat(16_385)])(
    'C20: the refresh token %.30j',
    (refresh_token) => {
      expect(read({ access_token: 'at', refresh_token })).toEqual({ kind: 'unreadable' })
    },
  )

  it.each(['mac', 'DPoP', 'pop', 'N_A', 'user', 'bot', 'urn:x'])(
    'C20: the token type %s',
    (token_type) => {
      expect(read({ access_token: 'at', token_type })).toEqual({ kind: 'unreadable' })
    },
  )

  it('N_A is one of an exchange only', () => {
    const answer = { access_token: 'at', token_type: 'N_A' }
    expect(tokensOf(answer, { grant: 'exchange' }).accessToken).toBe('at')
    expect(read(answer, { grant: 'refresh' }).kind).toBe('unreadable')
  })

  it('C20: prototype keys are no members', () => {
    expect(read('{"__proto__":{"access_token":"at"}}').kind).toBe('unreadable')
    expect(read('__proto__[access_token]=at&constructor=x').kind).toBe('unreadable')
    expect(
      tokensOf('{"__proto__":{"error":"x"},"constructor":1,"access_token":"at"}'),
    ).toMatchObject({
      accessToken: 'at',
    })
    expect(Object.hasOwn(Object.prototype, 'access_token')).toBe(false)
  })

  it('a token in an answer that is no success', () => {
    for (const status of [302, 400, 500]) {
      expect(read({ access_token: 'at' }, {}, { status })).toEqual({ kind: 'unreadable' })
    }
  })
})

describe('a failure', () => {
  it.each([200, 400, 401, 403, 500])('H-L2: is an error member, also with status %i', (status) => {
    const answer = read({ error: 'bad_refresh_token', access_token: 'at' }, {}, { status })
    expect(answer).toMatchObject({ kind: 'error', error: { error: 'bad_refresh_token' } })
  })

  it('is ok:false, with a word or without', () => {
    expect(read({ ok: false, error: 'invalid_auth' })).toMatchObject({
      error: { error: 'invalid_auth' },
    })
    expect(read({ ok: false, access_token: 'at' }).kind).toBe('error')
  })

  it('is a form with an error', () => {
    expect(read('error=bad_verification_code&error_description=x')).toMatchObject({
      kind: 'error',
      error: { error: 'bad_verification_code' },
    })
  })

  it('is none when the error member is empty', () => {
    for (const error of ['', null, false]) {
      expect(tokensOf({ access_token: 'at', error }).accessToken).toBe('at')
    }
  })

  it('keeps words and numbers that are compared with ours, and nothing else', () => {
    expect(
      read({
        error: 'interaction_required',
        suberror: 'basic_action',
        error_codes: [50076, '50079'],
        error_description: 'CNRY-TEXT',
        error_uri: 'https://evil.example.com',
        correlation_id: 'x',
      }),
    ).toEqual({
      kind: 'error',
      error: {
        error: 'interaction_required',
        suberror: 'basic_action',
        codes: [50076, 50079],
        claims: undefined,
      },
    })
  })

  it('is one of an unknown kind when its words are no words', () => {
    for (const error of [{ message: 'x' }, 7, 'x'.repeat(200)]) {
      expect(read({ error, error_codes: 'x', suberror: {} })).toEqual({
        kind: 'error',
        error: { error: undefined, suberror: undefined, codes: [], claims: undefined },
      })
    }
  })

  it('may carry a challenge: a JSON object of 4 KiB at most', () => {
    const claims = '{"access_token":{"acrs":{"essential":true,"value":"c1"}}}'
    const answer = read({ error: 'interaction_required', claims })
    expect(answer.kind === 'error' && answer.error.claims?.reveal()).toBe(claims)
    const bad = ['', 'x', '[]', '"x"', '7', 'null', '{', { a: 1 }, `{"a":"${'a'.repeat(4096)}"}`]
    for (const value of bad) {
      expect(read({ error: 'interaction_required', claims: value })).toMatchObject({
        error: { claims: undefined },
      })
    }
  })
})

describe('a token one object down (Slack)', () => {
  const slack = { tokenAnswerMember: 'authed_user' }
  const nested = {
    ok: true,
    access_token: 'xoxb-shared',
    token_type: 'bot',
    scope: 'commands',
    authed_user: {
      id: 'U123',
      scope: 'chat:write,users:read',
      access_token: 'xoxp-own',
      token_type: 'user',
      expires_in: 43_200,
      refresh_token: 'xoxe-1',
    },
  }

  it('is the person’s, with its own scope, life and refresh token', () => {
    expect(tokensOf(nested, slack)).toEqual({
      accessToken: 'xoxp-own',
      refreshToken: 'xoxe-1',
      expiresAt: after(43_200),
      scopes: ['chat:write', 'users:read'],
      account: 'U123',
    })
  })

  it('stands at the top after a refresh', () => {
    const answer = { ok: true, access_token: 'xoxp-2', token_type: 'user', id: 'U999' }
    expect(tokensOf(answer, { ...slack, grant: 'refresh' })).toMatchObject({
      accessToken: 'xoxp-2',
      account: undefined,
    })
  })

  it('is never the bot’s, which is one for all people', () => {
    const { authed_user: _, ...shared } = nested
    expect(read(shared, slack).kind).toBe('unreadable')
    expect(read({ ...nested, authed_user: { id: 'U123' } }, slack).kind).toBe('unreadable')
  })

  it('is not looked for in what every object has', () => {
    expect(tokensOf({ access_token: 'at' }, { tokenAnswerMember: 'constructor' }).accessToken).toBe(
      'at',
    )
  })
})

describe('what the server calls the person', () => {
  function accountOf(claims: unknown): string | undefined {
    const payload = Buffer.from(JSON.stringify(claims)).toString('base64url')
    return tokensOf({ access_token: 'at', id_token: `e30.${payload}.c2ln` }).account
  }

  it('is the most telling claim of an ID token', () => {
    const all = { sub: '1', name: 'Ada', preferred_username: 'ada', email: 'ada@example.com' }
    expect(accountOf(all)).toBe('ada@example.com')
    const { email: _, ...others } = all
    expect(accountOf(others)).toBe('ada')
    expect(accountOf({ sub: '1', name: 'Ada Lovelace' })).toBe('Ada Lovelace')
    expect(accountOf({ sub: '1' })).toBe('1')
  })

  it.each(['', 'a\nb', 'a\u0000', 'a\u202eb', 'a\u2028', 'a\u200b', 'a'.repeat(201), 7, null, {}])(
    'is not %.20j',
    (email) => {
      expect(accountOf({ email })).toBeUndefined()
      expect(accountOf({ email, sub: 'ada' })).toBe('ada')
    },
  )

  it('is nothing where the ID token cannot be read, which costs nobody the tokens', () => {
    for (const id_token of ['x', 'a.b.c', 'e30.bnVsbA.x', 'e30.WyJhIl0.x', '', 7, null]) {
      const tokens = tokensOf({ access_token: 'at', id_token })
      expect(tokens).toMatchObject({ accessToken: 'at', account: undefined })
    }
  })
})
