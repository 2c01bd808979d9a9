import { inspect } from 'node:util'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createAcquisition } from '../../src/acquisition/index.ts'
import type { TokenSet } from '../../src/core/credential.ts'
import { AcquisitionFailure } from '../../src/core/failure-verdict.ts'
import type { AcquisitionMethod } from '../../src/core/ports/acquisition-method.ts'
import { Secret } from '../../src/core/secret.ts'
import { type CredentialMode, methodOfMode, type Upstream } from '../../src/core/upstream.ts'
import { createHttpClient } from '../../src/outbound/http-client.ts'
import { createFakeClock, type FakeClock } from '../support/fake-clock.ts'
import { oauthUpstream } from '../support/oauth-upstream.ts'
import {
  json,
  type Script,
  type ScriptedServer,
  startScriptedServer,
  text,
} from '../support/scripted-server.ts'

const subjectToken = 'CNRY-IN-subject-token'
const refreshToken = 'CNRY-RT-refresh-token'
const clientSecret = 'CNRY-CS-client-secret'
const serverText = 'CNRY-TEXT'

const success = {
  access_token: 'CNRY-AT-1',
  refresh_token: 'CNRY-RT-2',
  token_type: 'Bearer',
  expires_in: 3600,
  scope: 'files:read',
}

/** What every way of acquiring a credential promises, whatever its server does. */
export function acquisitionMethodContract(mode: CredentialMode): void {
  const exchanges = mode !== 'oauth_connect'

  describe(`acquisition method ${mode}`, () => {
    let server: ScriptedServer
    let clock: FakeClock
    let method: AcquisitionMethod
    let upstream: Upstream

    beforeEach(async () => {
      server = await startScriptedServer(json(success))
      clock = createFakeClock()
      method = createAcquisition({ http: createHttpClient(), clock }).methods[mode]
      upstream = oauthUpstream({
        mode,
        tokenEndpoint: `${server.origin}/token`,
        revocationEndpoint: `${server.origin}/revoke`,
      })
    })

    afterEach(() => server.close())

    function operations(): readonly (readonly [string, () => Promise<TokenSet>])[] {
      return [
        ['refresh', () => method.refresh(upstream, new Secret(refreshToken), ['files:read'])],
        ...(exchanges ? [['acquire', () => acquire(subjectToken)] as const] : []),
      ]
    }

    async function acquire(token: string): Promise<TokenSet> {
      const tokens = await method.acquire?.(upstream, new Secret(token))
      if (tokens === undefined) throw new Error('this method acquires nothing')
      return tokens
    }

    async function failureOf(operation: () => Promise<unknown>): Promise<AcquisitionFailure> {
      const failure = await operation().then(
        () => undefined,
        (error: unknown) => error,
      )
      expect(failure).toBeInstanceOf(AcquisitionFailure)
      return failure as AcquisitionFailure
    }

    it('has the name that records use for its mode', () => {
      expect(method.name).toBe(methodOfMode[mode])
    })

    it('asks the server once and gives what it answered, ending by the clock that it asked at', async () => {
      for (const [, operation] of operations()) {
        server.requests.length = 0
        const tokens = await operation()
        expect(server.requests).toHaveLength(1)
        expect(server.requests[0]).toMatchObject({ method: 'POST', path: '/token' })
        expect(tokens.accessToken.reveal()).toBe('CNRY-AT-1')
        expect(tokens.refreshToken?.reveal()).toBe('CNRY-RT-2')
        expect(tokens.expiresAt).toEqual(new Date(clock.now().getTime() + 3_600_000))
        expect(tokens.scopes).toEqual(['files:read'])
      }
    })

    it('V9: asks right before it sends, and sends nothing when its turn is over', async () => {
      let asked = 0
      const maySend = () => {
        asked += 1
        return false
      }
      const failure = await failureOf(() =>
        method.refresh(upstream, new Secret(refreshToken), [], { maySend }),
      )
      expect(failure.verdict).toMatchObject({ kind: 'retry_at', answer: 'not_sent' })
      expect(asked).toBe(1)
      expect(server.requests).toHaveLength(0)
    })

    it('V8: hands over the whole answer before it reads it, and reads it again the same', async () => {
      const kept: Secret[] = []
      const keep = async (answer: Secret) => {
        kept.push(answer)
      }
      const tokens = await method.refresh(upstream, new Secret(refreshToken), [], { keep })
      clock.advance(600)
      const [answer] = kept
      if (answer === undefined) throw new Error('nothing was kept')
      const again = method.readRefresh(upstream, answer)
      expect(again.accessToken.reveal()).toBe(tokens.accessToken.reveal())
      expect(again.refreshToken?.reveal()).toBe(tokens.refreshToken?.reveal())
      expect(again.expiresAt).toEqual(tokens.expiresAt)

      server.script(text('neither JSON nor a form', 'text/plain'))
      await failureOf(() => method.refresh(upstream, new Secret(refreshToken), [], { keep }))
      const unreadable = kept[1]
      if (unreadable === undefined) throw new Error('it was read before it was kept')
      expect(() => method.readRefresh(upstream, unreadable)).toThrow(AcquisitionFailure)

      server.script(json({ error: 'invalid_grant' }, 400))
      await failureOf(() => method.refresh(upstream, new Secret(refreshToken), [], { keep }))
      expect(kept).toHaveLength(2)
    })

    it('gives secrets that do not print', async () => {
      for (const [, operation] of operations()) {
        const tokens = await operation()
        expect(inspect(tokens, { depth: 10, showHidden: true })).not.toContain('CNRY')
        expect(JSON.stringify(tokens)).not.toContain('CNRY')
      }
    })

    it('H-L3: redeems a refresh token by its grant, with the scopes that it is told', async () => {
      await method.refresh(upstream, new Secret(refreshToken), ['files:read'])
      const form = server.requests[0]?.form
      expect(form?.getAll('grant_type')).toEqual(['refresh_token'])
      expect(form?.getAll('refresh_token')).toEqual([refreshToken])
      expect(form?.getAll('scope')).toEqual(['files:read'])
      expect(server.requests[0]?.body).not.toContain(clientSecret)
    })

    it('M-N7: a refresh without a new refresh token names none', async () => {
      const { refresh_token: _, ...withoutIt } = success
      server.script(json(withoutIt))
      const tokens = await method.refresh(upstream, new Secret(refreshToken), [])
      expect(tokens.refreshToken).toBeUndefined()
    })

    it('never sends a written parameter in the place of its own', async () => {
      const stolen = {
        grant_type: 'client_credentials',
        client_id: 'other',
        client_secret: 'other',
        client_assertion: 'other',
        client_assertion_type: 'other',
        refresh_token: 'other',
        subject_token: 'other',
        assertion: 'other',
        scope: 'other',
      }
      for (const [name] of operations()) {
        server.requests.length = 0
        const configured = oauthUpstream({
          ...upstream.credential,
          tokenParameters: { ...stolen, audience_hint: 'kept' },
        })
        if (name === 'refresh') await method.refresh(configured, new Secret(refreshToken), ['a'])
        else await method.acquire?.(configured, new Secret(subjectToken))
        const form = server.requests[0]?.form ?? new URLSearchParams()
        expect(form.getAll('audience_hint')).toEqual(['kept'])
        expect(form.has('client_secret')).toBe(false)
        expect(form.has('client_assertion')).toBe(false)
        expect(form.getAll('grant_type')).toHaveLength(1)
        expect(form.get('grant_type')).not.toBe('client_credentials')
        const proof =
          name === 'refresh'
            ? 'refresh_token'
            : mode === 'entra_obo'
              ? 'assertion'
              : 'subject_token'
        expect(form.getAll(proof)).toEqual([name === 'refresh' ? refreshToken : subjectToken])
        expect(form.getAll('scope')).toHaveLength(1)
        expect(form.get('scope')).not.toBe('other')
      }
    })

    if (exchanges) {
      it('M-X4: without a subject token sends nothing, also no other grant', async () => {
        const { verdict } = await failureOf(() => acquire(''))
        expect(verdict).toEqual({ kind: 'subject_token_refused' })
        expect(server.connections()).toBe(0)
      })
    }

    const hostile: readonly (readonly [string, Script, object])[] = [
      [
        'an error with secrets in its text',
        json(
          {
            error: 'invalid_client',
            error_description: `${serverText} ${clientSecret}`,
            error_uri: `https://${serverText}.example.com`,
          },
          401,
        ),
        { kind: 'misconfigured' },
      ],
      [
        'an error word of its own',
        json({ error: serverText }, 400),
        { kind: 'retry_at', answer: 'complete' },
      ],
      [
        'HTML',
        text(`<html>${serverText}</html>`, 'text/html'),
        { kind: 'retry_at', answer: 'lost' },
      ],
      [
        'broken JSON',
        text(`{"access_token":"${serverText}`, 'application/json'),
        { kind: 'retry_at', answer: 'lost' },
      ],
      [
        'a page of 500',
        text(`<html>${serverText}</html>`, 'text/html', 500),
        { kind: 'retry_at', answer: 'complete' },
      ],
      [
        'a token that ends the header',
        json({ access_token: `${serverText}\r\nX-Injected: 1` }),
        { kind: 'retry_at', answer: 'lost' },
      ],
      [
        'a reset connection',
        (_request, response) => response.socket?.resetAndDestroy(),
        { kind: 'retry_at', answer: 'lost' },
      ],
    ]

    it.each(hostile)(
      'M-X3: throws its verdict and nothing of the server’s text on %s',
      async (_what, script, expected) => {
        server.script(script)
        for (const [, operation] of operations()) {
          const failure = await failureOf(operation)
          expect(failure.verdict).toMatchObject(expected)
          const everything = inspect(failure, { depth: 20, showHidden: true, compact: false })
          expect(everything).not.toContain('CNRY')
          for (let cause: unknown = failure; cause instanceof Error; cause = cause.cause) {
            expect(`${cause.message}${cause.stack}${JSON.stringify(cause)}`).not.toContain('CNRY')
          }
        }
        const requests = server.requests.length
        expect(requests).toBe(operations().length)
      },
    )

    it('says that nothing was sent when nothing was', async () => {
      await server.close()
      for (const [, operation] of operations()) {
        expect((await failureOf(operation)).verdict).toEqual({
          kind: 'retry_at',
          answer: 'not_sent',
        })
      }
    })

    it('RFC 7009: revokes a token of either kind where there is an endpoint, and else does nothing', async () => {
      await method.revoke(upstream, new Secret(refreshToken), 'refresh_token')
      await method.revoke(upstream, new Secret('CNRY-AT-1'), 'access_token')
      expect(server.requests.map(({ path, form }) => [path, form.get('token_type_hint')])).toEqual([
        ['/revoke', 'refresh_token'],
        ['/revoke', 'access_token'],
      ])
      const without = oauthUpstream({ ...upstream.credential, revocationEndpoint: undefined })
      await method.revoke(without, new Secret(refreshToken), 'refresh_token')
      expect(server.requests).toHaveLength(2)
    })
  })
}
