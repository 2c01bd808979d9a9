import { randomUUID } from 'node:crypto'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { AuditRecord } from '../../src/core/audit-event.ts'
import type { ActivityRecord } from '../../src/core/ports/activity-store.ts'
import type { AuditSink } from '../../src/core/ports/audit-sink.ts'

/** A sink with its log, and a way to keep the log from taking anything. */
export type AuditSinkHarness = {
  readonly sink: AuditSink
  /** All records of the log, oldest first, once everything recorded before is in it. */
  readonly stored: () => Promise<readonly ActivityRecord[]>
  /** Nothing can be stored from now on; gives the end of it. */
  readonly holdStore: () => Promise<() => Promise<void>>
  readonly dropped: () => number
  readonly close: () => Promise<void>
}

export type AuditSinkOptions = {
  readonly limitBytes: number
  readonly whenFull: 'refuse' | 'drop'
}

/** What every implementation of `AuditSink` keeps to. */
export function describeAuditSink(
  name: string,
  open: (options: AuditSinkOptions) => Promise<AuditSinkHarness>,
): void {
  describe(`audit sink: ${name}`, () => {
    let harness: AuditSinkHarness | undefined

    const openWith = async (options: Partial<AuditSinkOptions> = {}) => {
      harness = await open({ limitBytes: 1024 ** 3, whenFull: 'refuse', ...options })
      return harness
    }
    beforeEach(() => {
      harness = undefined
    })
    afterEach(() => harness?.close())

    const record = (more: Partial<AuditRecord> = {}): AuditRecord => ({
      requestId: randomUUID(),
      startedAt: new Date(),
      userId: 'alice',
      issuer: 'https://login.example.com',
      actor: { kind: 'service', id: 'edge' },
      upstream: 'files',
      action: 'inject',
      method: 'connect',
      outcome: 'success',
      reason: undefined,
      details: { identity: 'token' },
      ...more,
    })

    it('M-A1, M-A5: keeps every field of a record, and gives it an id and a time', async () => {
      const { sink, stored } = await openWith()
      const given = record({
        requestId: 'f81d4fae-7dec-41d0-a765-00a0c91e6bf6',
        startedAt: new Date(Date.now() - 40),
        action: 'acquire',
        method: 'entra_obo',
        details: { identity: 'asserted' },
      })
      const before = Date.now()
      sink.admit()
      sink.record(given)
      const after = Date.now()
      const [found] = await stored()
      expect(found).toMatchObject({
        requestId: given.requestId,
        type: 'credential_broker',
        userId: 'alice',
        issuer: 'https://login.example.com',
        actor: { kind: 'service', id: 'edge' },
        upstream: 'files',
        action: 'acquire',
        method: 'entra_obo',
        outcome: 'success',
        reason: null,
        details: { identity: 'asserted' },
      })
      expect(found?.id).toMatch(/^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/)
      expect(found?.occurredAt.getTime()).toBeGreaterThanOrEqual(before)
      expect(found?.occurredAt.getTime()).toBeLessThanOrEqual(after)
      expect(found?.durationMs).toBeGreaterThanOrEqual(40)
    })

    it('M-A2, M-A3: keeps why an operation failed, and nothing where there is nobody', async () => {
      const { sink, stored } = await openWith()
      sink.record(
        record({
          userId: undefined,
          issuer: undefined,
          upstream: undefined,
          outcome: 'failure',
          reason: 'invalid_subject_token',
          method: 'unknown',
        }),
      )
      expect(await stored()).toMatchObject([
        {
          userId: null,
          issuer: null,
          upstream: null,
          outcome: 'failure',
          reason: 'invalid_subject_token',
          method: 'unknown',
        },
      ])
    })

    it('keeps each record once, in the order in which they came', async () => {
      const { sink, stored } = await openWith()
      const users = Array.from({ length: 1200 }, (_, index) => `user-${index}`)
      for (const userId of users) {
        sink.admit()
        sink.record(record({ userId }))
      }
      expect((await stored()).map(({ userId }) => userId)).toEqual(users)
    })

    it('refuse: admits nothing while it is full, keeps what was admitted, and opens again', async () => {
      const { sink, stored, holdStore, dropped } = await openWith({ limitBytes: 1000 })
      const release = await holdStore()
      let admitted = 0
      let refusal: unknown
      while (refusal === undefined && admitted < 100) {
        try {
          sink.admit()
          sink.record(record({ userId: `user-${admitted}` }))
          admitted += 1
        } catch (error) {
          refusal = error
        }
      }
      expect(refusal).toMatchObject({ code: 'audit_unavailable' })
      expect(admitted).toBeGreaterThan(2)
      expect(admitted).toBeLessThan(10)
      await sink.settled()
      await release()
      expect(await stored()).toHaveLength(admitted)
      expect(() => sink.admit()).not.toThrow()
      expect(dropped()).toBe(0)
    })

    it('drop: admits everything while it is full, and counts what it leaves out', async () => {
      const { sink, stored, holdStore, dropped } = await openWith({
        limitBytes: 1000,
        whenFull: 'drop',
      })
      const release = await holdStore()
      for (let index = 0; index < 50; index++) {
        sink.admit()
        sink.record(record({ userId: `user-${index}` }))
      }
      await sink.settled()
      await release()
      const users = (await stored()).map(({ userId }) => userId)
      expect(users.length).toBeGreaterThan(2)
      expect(users).toEqual(users.map((_, index) => `user-${index}`))
      expect(dropped()).toBe(50 - users.length)
    })

    it('H-A6: never throws at who records, whatever it is given', async () => {
      const { sink, stored } = await openWith()
      for (const odd of [undefined, null, {}, 'text', record({ action: 'steal' as 'inject' })]) {
        expect(() => sink.record(odd as AuditRecord)).not.toThrow()
      }
      sink.record(record({ userId: 'bob' }))
      expect((await stored()).map(({ userId }) => userId)).toEqual(['bob'])
    })
  })
}
