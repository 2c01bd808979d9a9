import { beforeAll, describe, expect, it } from 'vitest'
import type { CredentialKey, TokenSet } from '../../src/core/credential.ts'
import { freshnessOf } from '../../src/core/credential.ts'
import type {
  CredentialStore,
  NewCredential,
  RenewalClaim,
} from '../../src/core/ports/credential-store.ts'
import { leaseSeconds } from '../../src/core/lease.ts'
import { Secret } from '../../src/core/secret.ts'

/** What an implementation hands to the suite. */
export type CredentialStoreUnderTest = {
  readonly store: CredentialStore
  /** The store of another replica over the same rows. */
  readonly replica: CredentialStore
  /** Lets so much time pass for one connection: what happened to it moves into the past, and what is due comes nearer. */
  readonly pass: (key: CredentialKey, seconds: number) => Promise<void>
}

export const issuer = 'https://login.example.com'
export const binding = {
  authorizationServer: 'https://as.example.com',
  clientId: 'onbehalf',
  resource: 'https://files.example.com/mcp',
}

export function keyOf(userId: string, upstream = 'files'): CredentialKey {
  return { issuer, userId, upstream }
}

export function tokenSet(name: string, changes: Partial<TokenSet> = {}): TokenSet {
  return {
    accessToken: new Secret(`CANARY-AT-${name}`),
    refreshToken: new Secret(`CANARY-RT-${name}`),
    expiresAt: new Date('2030-01-01T12:00:00.000Z'),
    scopes: undefined,
    account: undefined,
    ...changes,
  }
}

export function newCredential(name: string, changes: Partial<NewCredential> = {}): NewCredential {
  return {
    tokens: tokenSet(name),
    method: 'connect',
    scopes: ['files:read', 'files:write'],
    audience: 'https://files.example.com/mcp',
    binding,
    renewed: false,
    ...changes,
  }
}

// Typed, because vitest's matchers are `any`.
const anyNumber: unknown = expect.any(Number)
const anySecret: unknown = expect.any(Secret)
const anyDate: unknown = expect.any(Date)
const aFingerprint: unknown = expect.stringMatching(/^[A-Za-z0-9_-]{22}$/)

/** Does not compress, as an index entry would be if it repeated itself. */
const longId = String.fromCodePoint(...Array.from({ length: 255 }, (_, at) => 0x4e00 + at * 73))

/** Every CredentialStore must pass this, whatever it stands on. */
export function credentialStoreContract(
  name: string,
  open: () => Promise<CredentialStoreUnderTest>,
): void {
  describe(`${name} keeps the contract of CredentialStore`, () => {
    let store: CredentialStore
    let replica: CredentialStore
    let pass: CredentialStoreUnderTest['pass']
    let people = 0

    beforeAll(async () => {
      ;({ store, replica, pass } = await open())
    })

    const repeatable = { repeatable: true, leaseSeconds, forced: false }
    const forced = { repeatable: true, leaseSeconds, forced: true }

    /** A person of their own for each test. */
    const somebody = (upstream?: string) => keyOf(`person-${++people}`, upstream)

    async function claimed(key: CredentialKey, from = store): Promise<RenewalClaim> {
      const generation = (await from.find(key))?.connection.generation
      const claim = await from.claimRenewal(key, generation ?? -1, repeatable)
      if (claim === undefined) throw new Error('there was no claim to take')
      return claim
    }

    async function tokenOf(key: CredentialKey): Promise<string | undefined> {
      return (await replica.find(key))?.credential?.accessToken.reveal()
    }

    describe('find, list and put', () => {
      it('M-S1: finds what was put, in every field', async () => {
        const key = somebody()
        const before = new Date()
        const put = await store.put(
          key,
          newCredential('one', { tokens: tokenSet('one', { account: 'alice@files' }) }),
        )
        const found = await replica.find(key)
        expect(found?.credential?.accessToken.reveal()).toBe('CANARY-AT-one')
        expect(found?.credential).toEqual(put)
        expect(put).toEqual({
          generation: anyNumber,
          accessToken: anySecret,
          fingerprint: aFingerprint,
          method: 'connect',
          scopes: ['files:read', 'files:write'],
          audience: 'https://files.example.com/mcp',
          obtainedAt: anyDate,
          expiresAt: new Date('2030-01-01T12:00:00.000Z'),
          renewable: true,
          renewed: false,
          binding,
        })
        expect(found?.connection).toEqual({
          ...key,
          generation: put.generation,
          status: 'connected',
          reason: undefined,
          method: 'connect',
          scopes: ['files:read', 'files:write'],
          audience: 'https://files.example.com/mcp',
          account: 'alice@files',
          binding,
          renewable: true,
          connectedAt: put.obtainedAt,
          obtainedAt: put.obtainedAt,
          expiresAt: new Date('2030-01-01T12:00:00.000Z'),
          nextTryAt: undefined,
        })
        expect(Math.abs(put.obtainedAt.getTime() - before.getTime())).toBeLessThan(60_000)
      })

      it('M-S5: finds and takes nothing where nothing is', async () => {
        const key = somebody()
        expect(await store.find(key)).toBeUndefined()
        expect(await store.take(key)).toBeUndefined()
        await store.put(key, newCredential('gone'))
        await store.take(key)
        expect(await store.find(key)).toBeUndefined()
        expect(await store.take(key)).toBeUndefined()
        expect(await store.list(key)).toEqual([])
      })

      it('keeps absent what is absent', async () => {
        const key = somebody()
        await store.put(
          key,
          newCredential('bare', {
            tokens: tokenSet('bare', { refreshToken: undefined, expiresAt: undefined }),
            scopes: [],
            audience: undefined,
            binding: { ...binding, resource: undefined },
          }),
        )
        const found = await replica.find(key)
        expect(found?.credential).toMatchObject({ renewable: false, scopes: [] })
        expect(found?.credential?.audience).toBeUndefined()
        expect(found?.connection.account).toBeUndefined()
        expect(found?.connection.binding.resource).toBeUndefined()
      })

      it('M-S9: a credential without an end never ends', async () => {
        const key = somebody()
        await store.put(
          key,
          newCredential('endless', { tokens: tokenSet('endless', { expiresAt: undefined }) }),
        )
        const credential = (await replica.find(key))?.credential
        expect(credential?.expiresAt).toBeUndefined()
        if (credential === undefined) throw new Error('not found')
        const settings = { refreshBeforeSeconds: 60 }
        expect(freshnessOf(credential, settings, new Date('2999-01-01'))).toBe('valid')
        const ending = { ...credential, expiresAt: new Date('2030-01-01T12:00:00Z') }
        expect(freshnessOf(ending, settings, new Date('2030-01-01T11:58:59Z'))).toBe('valid')
        expect(freshnessOf(ending, settings, new Date('2030-01-01T11:59:00Z'))).toBe('ending')
        expect(freshnessOf(ending, settings, new Date('2030-01-01T12:00:00Z'))).toBe('ended')
      })

      it('M-S3: a person whose id begins with another’s never sees the other’s', async () => {
        const pairs = [
          ['a', 'ab'],
          ['x:y', 'x'],
          ['p%', 'pp'],
          ['q_', 'qq'],
          ['é', 'e\u0301'],
          ['Case', 'case'],
          ['trail', 'trail '],
        ] as const
        for (const [one, other] of pairs) {
          await store.put(keyOf(one), newCredential(`of ${one}`))
          expect(await store.find(keyOf(other)), `${one} / ${other}`).toBeUndefined()
          expect(await store.list(keyOf(other))).toEqual([])
          expect(await store.claimRenewal(keyOf(other), 1)).toBeUndefined()
          expect(await store.take(keyOf(other))).toBeUndefined()
          await store.put(keyOf(other), newCredential(`of ${other}`))
          expect(await tokenOf(keyOf(one))).toBe(`CANARY-AT-of ${one}`)
          expect(await tokenOf(keyOf(other))).toBe(`CANARY-AT-of ${other}`)
          expect(await store.list(keyOf(one))).toHaveLength(1)
        }
      })

      it('keeps the same user id of two issuers apart', async () => {
        const [one, other] = [
          { ...keyOf('shared-id'), issuer: 'https://one.example.com' },
          { ...keyOf('shared-id'), issuer: 'https://one.example.com/' },
        ] as const
        await store.put(one, newCredential('one'))
        expect(await store.find(other)).toBeUndefined()
        expect(await store.take(other)).toBeUndefined()
        expect(await tokenOf(one)).toBe('CANARY-AT-one')
      })

      it.each([
        ['colons and slashes', 'urn:x/y//..%2f#?&=+ '],
        ['quotes', `'"\\"; DROP TABLE credential; -- {,} $1`],
        ['unicode', '人😀\u202eé\u0301'],
        ['255 characters', 'ü'.repeat(255)],
        ['255 characters of three bytes', longId],
      ])('takes ids with %s', async (_name, id) => {
        const key = { issuer: `https://idp.example.com/${id}`, userId: id, upstream: 'files' }
        await store.put(key, newCredential(id))
        const claim = await claimed(key)
        expect(claim.refreshToken.reveal()).toBe(`CANARY-RT-${id}`)
        await store.commitRenewal(key, claim, { tokens: tokenSet(`${id}2`), scopes: [id] })
        expect((await replica.find(key))?.connection).toMatchObject({ ...key, scopes: [id] })
        expect(await tokenOf(key)).toBe(`CANARY-AT-${id}2`)
        expect((await store.take(key))?.token?.reveal()).toBe(`CANARY-RT-${id}2`)
      })

      it('keeps every character of a token', async () => {
        const key = somebody()
        const text = `${'x'.repeat(9000)} "\\'{},\u00e9\u4eba`
        const tokens = tokenSet('long', { accessToken: new Secret(text) })
        await store.put(key, newCredential('long', { tokens }))
        expect(await tokenOf(key)).toBe(text)
      })

      it('lists the connections of one person by upstream, without tokens', async () => {
        const { userId } = somebody()
        for (const upstream of ['mail', 'files', 'a-b', 'ab', 'a0']) {
          await store.put(keyOf(userId, upstream), newCredential(`${userId} ${upstream}`))
        }
        await store.put(somebody('mail'), newCredential('somebody else'))
        const listed = await replica.list({ issuer, userId })
        expect(listed.map(({ upstream }) => upstream)).toEqual(['a-b', 'a0', 'ab', 'files', 'mail'])
        expect(listed[3]).toEqual((await replica.find(keyOf(userId)))?.connection)
        expect(JSON.stringify(listed)).not.toContain('CANARY')
      })

      it('replaces as a whole: a later generation, no lease, no failures', async () => {
        const key = somebody()
        const first = await store.put(
          key,
          newCredential('first', { tokens: tokenSet('first', { account: 'before' }) }),
        )
        const claim = await claimed(key)
        await store.failRenewal(key, claim, {
          kind: 'retry',
          failure: 'unavailable',
          failCount: 3,
          retryInSeconds: 900,
          outcomeKnown: false,
        })
        const second = await replica.put(
          key,
          newCredential('second', {
            tokens: tokenSet('second', { expiresAt: undefined }),
            method: 'token_exchange',
            scopes: ['other'],
            audience: undefined,
            binding: {
              authorizationServer: 'https://as2.example.com',
              clientId: 'c2',
              resource: undefined,
            },
          }),
        )
        expect(second.generation).toBeGreaterThan(first.generation)
        expect(await tokenOf(key)).toBe('CANARY-AT-second')
        const connection = (await store.find(key))?.connection
        expect(connection).toMatchObject({ method: 'token_exchange', scopes: ['other'] })
        expect(connection?.binding.clientId).toBe('c2')
        expect(connection).toMatchObject({
          account: undefined,
          audience: undefined,
          expiresAt: undefined,
          nextTryAt: undefined,
        })
        expect((await claimed(key)).afterLostAnswer).toBe(false)
      })

      it('connected_at: of the last connect, but of the first of repeated exchanges', async () => {
        const [connected, exchanged] = [somebody(), somebody()]
        const exchange = newCredential('exchange', { method: 'token_exchange' })
        await store.put(connected, newCredential('connect'))
        const firstExchange = await store.put(exchanged, exchange)
        await pass(connected, 60)
        await pass(exchanged, 60)
        const secondConnect = await store.put(connected, newCredential('connect'))
        const secondExchange = await store.put(exchanged, { ...exchange, renewed: true })
        expect(secondExchange).toMatchObject({ renewed: true })
        expect((await replica.find(exchanged))?.credential?.renewed).toBe(true)
        expect((await store.find(connected))?.connection.connectedAt).toEqual(
          secondConnect.obtainedAt,
        )
        expect((await store.find(exchanged))?.connection.connectedAt).toEqual(
          new Date(firstExchange.obtainedAt.getTime() - 60_000),
        )
        expect((await store.find(exchanged))?.connection.obtainedAt).toEqual(
          secondExchange.obtainedAt,
        )
      })

      it('the latest generation stays when many are put at once, and every caller gets what is stored by then', async () => {
        const key = somebody()
        const names = Array.from({ length: 24 }, (_, at) => `crowd-${at}`)
        const results = await Promise.all(
          names.map((one, at) => (at % 2 === 0 ? store : replica).put(key, newCredential(one))),
        )
        const latest = Math.max(...results.map(({ generation }) => generation))
        const found = await store.find(key)
        expect(found?.connection.generation).toBe(latest)
        const winner = results.find(({ generation }) => generation === latest)
        expect(found?.credential?.accessToken.reveal()).toBe(winner?.accessToken.reveal())
        expect((await claimed(key)).refreshToken.reveal()).toBe(
          winner?.accessToken.reveal().replace('-AT-', '-RT-'),
        )
      })

      it('names a token by a fingerprint that every replica knows and that holds nothing of it', async () => {
        const [one, other] = [somebody(), somebody()]
        const first = await store.put(one, newCredential('fingerprinted'))
        const same = await replica.put(other, newCredential('fingerprinted'))
        const different = await replica.put(other, newCredential('fingerprinted2'))
        expect(same.fingerprint).toBe(first.fingerprint)
        expect(different.fingerprint).not.toBe(first.fingerprint)
        expect((await replica.find(one))?.credential?.fingerprint).toBe(first.fingerprint)
      })
    })

    describe('claimRenewal', () => {
      it('hands out the refresh token with the lease', async () => {
        const key = somebody()
        const { generation } = await store.put(key, newCredential('lease'))
        const claim = await store.claimRenewal(key, generation)
        expect(claim).toEqual({
          generation,
          nextGeneration: anyNumber,
          leaseEpoch: anyNumber,
          afterLostAnswer: false,
          failCount: 0,
          forced: false,
          refreshToken: anySecret,
          scopes: ['files:read', 'files:write'],
        })
        expect(claim?.refreshToken.reveal()).toBe('CANARY-RT-lease')
        expect(claim?.nextGeneration).toBeGreaterThan(generation)
      })

      it('V1: goes to one of many who ask at once, over all replicas', async () => {
        const key = somebody()
        const { generation } = await store.put(key, newCredential('crowded'))
        const claims = await Promise.all(
          Array.from({ length: 40 }, (_, at) =>
            (at % 2 === 0 ? store : replica).claimRenewal(key, generation),
          ),
        )
        expect(claims.filter((claim) => claim !== undefined)).toHaveLength(1)
      })

      it('is refused for a generation that moved on, a missing refresh token, a dead connection and nobody', async () => {
        const [moved, bare, dead] = [somebody(), somebody(), somebody()]
        const old = await store.put(moved, newCredential('old'))
        await store.put(moved, newCredential('new'))
        expect(await store.claimRenewal(moved, old.generation)).toBeUndefined()

        const tokens = tokenSet('bare', { refreshToken: undefined })
        const { generation } = await store.put(bare, newCredential('bare', { tokens }))
        expect(await store.claimRenewal(bare, generation)).toBeUndefined()

        await store.put(dead, newCredential('dead'))
        const claim = await claimed(dead)
        await store.failRenewal(dead, claim, { kind: 'reconnect', reason: 'refresh_failed' })
        expect(await store.claimRenewal(dead, claim.generation)).toBeUndefined()

        expect(await store.claimRenewal(somebody(), generation)).toBeUndefined()
      })

      it('passes to another when its holder did not come back, who knows that an answer was lost', async () => {
        const key = somebody()
        await store.put(key, newCredential('crash'))
        const first = await claimed(key)
        await pass(key, leaseSeconds - 10)
        expect(await replica.claimRenewal(key, first.generation, repeatable)).toBeUndefined()
        expect((await replica.lookAtRenewal(key))?.renewal).toMatchObject({
          leaseEpoch: first.leaseEpoch,
          leasedForSeconds: anyNumber,
        })
        await pass(key, 11)
        const second = await claimed(key, replica)
        expect(second).toMatchObject({ generation: first.generation, afterLostAnswer: true })
        expect(second.leaseEpoch).toBeGreaterThan(first.leaseEpoch)
        expect(second.nextGeneration).toBeGreaterThan(first.nextGeneration)
      })

      it('V12: stays with a holder that has said nothing where callers spare it, not with one that gave its lease back', async () => {
        const key = somebody()
        await store.put(key, newCredential('spared'))
        const first = await claimed(key)
        await pass(key, leaseSeconds + 1)
        const sparing = { ...repeatable, sparesSilent: true }
        expect(await replica.claimRenewal(key, first.generation, sparing)).toBeUndefined()
        const leased = (await replica.lookAtRenewal(key, sparing))?.renewal.leasedForSeconds
        expect(leased).toBeGreaterThan(0)
        expect((await replica.lookAtRenewal(key))?.renewal.leasedForSeconds).toBeUndefined()
        const second = await claimed(key, replica)
        await replica.failRenewal(key, second, {
          kind: 'retry',
          failure: 'unavailable',
          failCount: 1,
          retryInSeconds: 0,
          outcomeKnown: false,
        })
        expect(await store.claimRenewal(key, first.generation, sparing)).toBeDefined()
      })

      it('V10, V11: a token that may be spent rests until its credential has ended, where the server is strict', async () => {
        const key = somebody()
        const { generation } = await store.put(key, newCredential('strict'))
        await claimed(key)
        await pass(key, leaseSeconds + 1)
        expect(await replica.claimRenewal(key, generation)).toBeUndefined()
        const looked = await replica.lookAtRenewal(key)
        expect(looked?.credential?.generation).toBe(generation)
        expect(looked?.renewal).toMatchObject({
          leasedForSeconds: undefined,
          blockedForSeconds: anyNumber,
        })
        const ended = somebody()
        const tokens = tokenSet('ended', { expiresAt: new Date(Date.now() - 1000) })
        const before = await store.put(ended, newCredential('ended', { tokens }))
        await claimed(ended)
        await pass(ended, leaseSeconds + 1)
        const claim = await replica.claimRenewal(ended, before.generation)
        expect(claim).toMatchObject({ afterLostAnswer: true })
      })

      it('V4: waits out what a server asked of everybody, for every connection of that server', async () => {
        const [one, other, elsewhere] = [somebody(), somebody(), somebody()]
        const paused = { ...binding, authorizationServer: `https://paused-${people}.example.com` }
        await store.put(one, newCredential('one', { binding: paused }))
        await store.put(other, newCredential('other', { binding: paused }))
        await store.put(elsewhere, newCredential('elsewhere'))
        await store.failRenewal(one, await claimed(one), {
          kind: 'retry',
          failure: 'unavailable',
          failCount: 1,
          retryInSeconds: 0,
          outcomeKnown: true,
          pause: { authorizationServers: [paused.authorizationServer], seconds: 300 },
        })
        for (const key of [one, other]) {
          const generation = (await replica.find(key))?.connection.generation ?? -1
          expect(await replica.claimRenewal(key, generation, repeatable)).toBeUndefined()
          const blocked = (await replica.lookAtRenewal(key))?.renewal.blockedForSeconds ?? 0
          expect(blocked).toBeGreaterThan(200)
          expect(blocked).toBeLessThanOrEqual(300)
        }
        expect(await claimed(elsewhere)).toMatchObject({ failCount: 0 })
      })

      it('is had five times a minute for callers who name the credential as rejected, and more often for others', async () => {
        const key = somebody()
        await store.put(key, newCredential('forced-0'))
        for (let round = 1; round <= 5; round += 1) {
          const from = round % 2 === 0 ? store : replica
          const generation = (await from.find(key))?.connection.generation ?? -1
          const claim = await from.claimRenewal(key, generation, forced)
          if (claim === undefined) throw new Error(`no claim in round ${round}`)
          const tokens = tokenSet(`forced-${round}`)
          await from.commitRenewal(key, claim, { tokens, scopes: [] })
        }
        const generation = (await store.find(key))?.connection.generation ?? -1
        expect(await store.claimRenewal(key, generation, forced)).toBeUndefined()
        expect((await store.lookAtRenewal(key, forced))?.renewal.forcedTooOften).toBe(true)
        expect((await store.lookAtRenewal(key))?.renewal.forcedTooOften).toBe(false)
        const claim = await claimed(key)
        await store.commitRenewal(key, claim, { tokens: tokenSet('forced-6'), scopes: [] })
        await pass(key, 61)
        expect(await replica.claimRenewal(key, claim.nextGeneration, forced)).toBeDefined()
      })
    })

    describe('commitRenewal', () => {
      it('stores the rotated tokens under the next generation and gives the lease back', async () => {
        const key = somebody()
        const before = await store.put(
          key,
          newCredential('one', { tokens: tokenSet('one', { account: 'alice@files' }) }),
        )
        const claim = await claimed(key)
        const renewed = await store.commitRenewal(key, claim, {
          tokens: tokenSet('two', { expiresAt: new Date('2031-01-01') }),
          scopes: ['files:read'],
        })
        expect(renewed).toEqual((await replica.find(key))?.credential)
        expect(renewed).toMatchObject({
          generation: claim.nextGeneration,
          scopes: ['files:read'],
          audience: before.audience,
          binding,
          renewed: true,
          renewable: true,
          expiresAt: new Date('2031-01-01'),
        })
        expect(renewed?.obtainedAt.getTime()).toBeGreaterThanOrEqual(before.obtainedAt.getTime())
        expect(await tokenOf(key)).toBe('CANARY-AT-two')
        expect((await store.find(key))?.connection).toMatchObject({
          account: 'alice@files',
          connectedAt: before.obtainedAt,
        })
        const next = await claimed(key, replica)
        expect(next.refreshToken.reveal()).toBe('CANARY-RT-two')
        expect(next.afterLostAnswer).toBe(false)
      })

      it('keeps the old refresh token where the answer had none', async () => {
        const key = somebody()
        await store.put(key, newCredential('kept'))
        for (const round of [1, 2, 3]) {
          const claim = await claimed(key, round === 2 ? replica : store)
          expect(claim.refreshToken.reveal()).toBe('CANARY-RT-kept')
          await store.commitRenewal(key, claim, {
            tokens: tokenSet(`round-${round}`, { refreshToken: undefined }),
            scopes: claim.scopes,
          })
          expect(await tokenOf(key)).toBe(`CANARY-AT-round-${round}`)
        }
        expect((await store.take(key))?.token?.reveal()).toBe('CANARY-RT-kept')
      })

      it('V22: leaves a connection away that was disconnected meanwhile', async () => {
        const key = somebody()
        await store.put(key, newCredential('leaving'))
        const claim = await claimed(key)
        expect(await replica.take(key)).toBeDefined()
        const tokens = tokenSet('late')
        expect(await store.commitRenewal(key, claim, { tokens, scopes: [] })).toBeUndefined()
        expect(await store.find(key)).toBeUndefined()
      })

      it('V22: also when the person connected again after that', async () => {
        const key = somebody()
        await store.put(key, newCredential('leaving'))
        const claim = await claimed(key)
        await store.take(key)
        await store.put(key, newCredential('back'))
        const tokens = tokenSet('late')
        expect(await store.commitRenewal(key, claim, { tokens, scopes: [] })).toBeUndefined()
        await store.failRenewal(key, claim, { kind: 'reconnect', reason: 'refresh_failed' })
        expect(await tokenOf(key)).toBe('CANARY-AT-back')
      })

      it('V23: leaves the tokens of a connect that came meanwhile', async () => {
        const key = somebody()
        await store.put(key, newCredential('before'))
        const claim = await claimed(key)
        await replica.put(key, newCredential('connected again'))
        const tokens = tokenSet('late')
        expect(await store.commitRenewal(key, claim, { tokens, scopes: [] })).toBeUndefined()
        expect(await tokenOf(key)).toBe('CANARY-AT-connected again')
        expect((await claimed(key)).refreshToken.reveal()).toBe('CANARY-RT-connected again')
      })

      it('lets one of two holders of a generation through', async () => {
        const key = somebody()
        await store.put(key, newCredential('two holders'))
        const first = await claimed(key)
        await pass(key, leaseSeconds + 1)
        const second = await claimed(key, replica)
        const committed = await Promise.all([
          store.commitRenewal(key, first, { tokens: tokenSet('first'), scopes: [] }),
          replica.commitRenewal(key, second, { tokens: tokenSet('second'), scopes: [] }),
        ])
        const winners = committed.filter((credential) => credential !== undefined)
        expect(winners).toHaveLength(1)
        expect(await tokenOf(key)).toBe(winners[0]?.accessToken.reveal())
      })

      it('lets a late success win over the failure of the next holder', async () => {
        const key = somebody()
        await store.put(key, newCredential('paused'))
        const paused = await claimed(key)
        await pass(key, leaseSeconds + 1)
        const next = await claimed(key, replica)
        await replica.failRenewal(key, next, {
          kind: 'reconnect',
          reason: 'refresh_outcome_unknown',
        })
        expect((await store.find(key))?.credential).toBeUndefined()
        await store.commitRenewal(key, paused, { tokens: tokenSet('late'), scopes: [] })
        expect((await replica.find(key))?.connection).toMatchObject({
          status: 'connected',
          reason: undefined,
        })
        expect(await tokenOf(key)).toBe('CANARY-AT-late')
      })
    })

    describe('failRenewal', () => {
      const retry = (retryInSeconds: number, outcomeKnown: boolean) =>
        ({
          kind: 'retry',
          failure: 'unavailable',
          failCount: 1,
          retryInSeconds,
          outcomeKnown,
        }) as const
      const atOnce = 0

      it('reconnect: ends the connection, says why and forgets both tokens', async () => {
        const key = somebody()
        await store.put(key, newCredential('dead'))
        const claim = await claimed(key)
        await store.failRenewal(key, claim, { kind: 'reconnect', reason: 'refresh_failed' })
        const found = await replica.find(key)
        expect(found?.credential).toBeUndefined()
        expect(found?.connection).toMatchObject({
          status: 'reconnect_required',
          reason: 'refresh_failed',
          renewable: false,
        })
        expect((await store.list(key))[0]?.status).toBe('reconnect_required')
        expect(await store.take(key)).toMatchObject({ method: 'connect', token: undefined })
      })

      it('retry: gives the lease back and nobody gets it before its time', async () => {
        const key = somebody()
        await store.put(key, newCredential('later'))
        const claim = await claimed(key)
        expect(await store.failRenewal(key, claim, retry(60, true))).toBe(true)
        const nextTryMs = (await store.find(key))?.connection.nextTryAt?.getTime() ?? 0
        expect(Math.abs(nextTryMs - Date.now() - 60_000)).toBeLessThan(30_000)
        expect(await tokenOf(key)).toBe('CANARY-AT-later')
        expect(await replica.claimRenewal(key, claim.generation)).toBeUndefined()
        await pass(key, 70)
        expect(await claimed(key, replica)).toMatchObject({ afterLostAnswer: false })
      })

      it('remembers a lost answer, also through a known answer to the next try', async () => {
        const key = somebody()
        await store.put(key, newCredential('lost'))
        const first = await claimed(key)
        await store.failRenewal(key, first, retry(atOnce, false))
        const second = await claimed(key, replica)
        expect(second.afterLostAnswer).toBe(true)
        await replica.failRenewal(key, second, retry(atOnce, true))
        const third = await claimed(key)
        expect(third.afterLostAnswer).toBe(true)
        await store.commitRenewal(key, third, { tokens: tokenSet('found'), scopes: [] })
        expect((await claimed(key)).afterLostAnswer).toBe(false)
      })

      it('says how the last try failed, to who waited for it and for as long as nobody may try again', async () => {
        const key = somebody()
        await store.put(key, newCredential('setback'))
        const claim = await claimed(key)
        const setback = { failure: 'misconfigured', failCount: 4, outcomeKnown: true } as const
        await store.failRenewal(key, claim, { kind: 'retry', ...setback, retryInSeconds: 60 })
        expect((await replica.lookAtRenewal(key))?.renewal).toMatchObject({
          leaseEpoch: claim.leaseEpoch,
          leasedForSeconds: undefined,
          setback: { failure: 'misconfigured', retryInSeconds: anyNumber },
        })
        await pass(key, 61)
        expect((await replica.lookAtRenewal(key))?.renewal.setback).toBeUndefined()
        expect((await claimed(key)).failCount).toBe(4)
        await pass(key, leaseSeconds + 60)
        expect((await claimed(key)).failCount).toBe(0)
      })

      it('counts a known answer as no loss', async () => {
        const key = somebody()
        await store.put(key, newCredential('known'))
        for (const from of [store, replica, store]) {
          const claim = await claimed(key, from)
          expect(claim.afterLostAnswer).toBe(false)
          await from.failRenewal(key, claim, retry(atOnce, true))
        }
      })

      it('does nothing for a claim that is no longer the last', async () => {
        const key = somebody()
        await store.put(key, newCredential('stale'))
        const stale = await claimed(key)
        await pass(key, leaseSeconds + 1)
        const live = await claimed(key, replica)
        const dead = { kind: 'reconnect', reason: 'refresh_failed' } as const
        expect(await store.failRenewal(key, stale, dead)).toBe(false)
        expect(await store.failRenewal(key, stale, retry(atOnce, true))).toBe(false)
        expect((await store.find(key))?.connection.status).toBe('connected')
        expect(await store.claimRenewal(key, live.generation)).toBeUndefined()

        await replica.failRenewal(key, live, retry(atOnce, false))
        await replica.failRenewal(key, live, { kind: 'reconnect', reason: 'refresh_failed' })
        expect((await store.find(key))?.connection.status).toBe('connected')
      })

      it('does nothing to another person or upstream', async () => {
        const [one, other] = [somebody(), somebody()]
        await store.put(one, newCredential('one'))
        await store.put(other, newCredential('other'))
        const claim = await claimed(one)
        const dead = { kind: 'reconnect', reason: 'refresh_failed' } as const
        await store.failRenewal(other, claim, dead)
        await store.failRenewal({ ...one, upstream: 'mail' }, claim, dead)
        const tokens = tokenSet('x')
        expect(await store.commitRenewal(other, claim, { tokens, scopes: [] })).toBeUndefined()
        expect(await tokenOf(one)).toBe('CANARY-AT-one')
        expect(await tokenOf(other)).toBe('CANARY-AT-other')
      })
    })

    describe('take', () => {
      it('gives the refresh token to revoke, and the access token where there is none', async () => {
        const [both, one] = [somebody(), somebody()]
        await store.put(both, newCredential('both'))
        const tokens = tokenSet('alone', { refreshToken: undefined })
        await store.put(one, newCredential('alone', { tokens, method: 'token_exchange' }))
        const taken = await replica.take(both)
        expect(taken).toMatchObject({ method: 'connect', hint: 'refresh_token', binding })
        expect(taken?.token?.reveal()).toBe('CANARY-RT-both')
        const other = await replica.take(one)
        expect(other).toMatchObject({ method: 'token_exchange', hint: 'access_token' })
        expect(other?.token?.reveal()).toBe('CANARY-AT-alone')
      })

      it('gives a row to one of many who take it at once', async () => {
        const key = somebody()
        await store.put(key, newCredential('torn'))
        const taken = await Promise.all(
          Array.from({ length: 20 }, (_, at) => (at % 2 === 0 ? store : replica).take(key)),
        )
        expect(taken.filter((row) => row !== undefined)).toHaveLength(1)
      })

      it('leaves the person’s other connections', async () => {
        const key = somebody()
        await store.put(key, newCredential('a'))
        await store.put({ ...key, upstream: 'mail' }, newCredential('b'))
        await store.take(key)
        expect((await store.list(key)).map(({ upstream }) => upstream)).toEqual(['mail'])
      })

      it('V22, V23: put, claim, commit, fail and take at once leave one whole row or none', async () => {
        for (let round = 0; round < 10; round += 1) {
          const key = somebody()
          await store.put(key, newCredential(`start-${round}`))
          const claim = await claimed(key)
          const tokens = tokenSet(`renewed-${round}`)
          await Promise.all([
            store.commitRenewal(key, claim, { tokens, scopes: [] }),
            replica.put(key, newCredential(`put-${round}`)),
            store.failRenewal(key, claim, { kind: 'reconnect', reason: 'refresh_failed' }),
            replica.claimRenewal(key, claim.generation),
            ...(round % 2 === 0 ? [store.take(key)] : []),
          ])
          const found = await replica.find(key)
          if (found === undefined) continue
          expect(found.credential?.accessToken.reveal()).toBe(`CANARY-AT-put-${round}`)
        }
      })
    })
  })
}
