import type { Adapter, AdapterPayload } from 'oidc-provider'
import { InvalidGrant } from 'oidc-provider/lib/helpers/errors.js'

type Stored = { payload: AdapterPayload; endsAtMs: number; consumedAtMs: number | undefined }

/** What a server does with a refresh token that was used: refuses it, or accepts it for a while. */
export type ReuseGrace = { readonly graceSeconds: number; readonly onReuse: () => void }

/**
 * Keeps what one oidc-provider stores in memory. A refresh token is used up atomically: of two requests at the same time the
 * second is a reuse and ends the family (RFC 9700 §4.14.2), which oidc-provider alone sees only in requests after another.
 */
export function createProviderStorage(reuse: ReuseGrace): (model: string) => Adapter {
  const models = new Map<string, Map<string, Stored>>()
  const endedGrants = new Set<string>()

  function itemsOf(model: string): Map<string, Stored> {
    const items = models.get(model) ?? new Map<string, Stored>()
    models.set(model, items)
    return items
  }

  function isWithinGrace({ consumedAtMs }: Stored): boolean {
    return consumedAtMs !== undefined && Date.now() - consumedAtMs < reuse.graceSeconds * 1000
  }

  function endGrant(grantId: string): void {
    endedGrants.add(grantId)
    for (const items of models.values()) {
      for (const [id, { payload }] of items) if (payload.grantId === grantId) items.delete(id)
    }
    itemsOf('Grant').delete(grantId)
  }

  return (model) => {
    const items = itemsOf(model)

    function findStored(id: string): Stored | undefined {
      const stored = items.get(id)
      if (stored === undefined || stored.endsAtMs > Date.now()) return stored
      items.delete(id)
      return undefined
    }

    function present(stored: Stored | undefined): AdapterPayload | undefined {
      if (stored === undefined) return undefined
      const payload = { ...stored.payload }
      if (isWithinGrace(stored)) delete payload.consumed
      return payload
    }

    return {
      async upsert(id, payload, expiresInSeconds) {
        // A token made while its family was being ended must not outlive it.
        if (payload.grantId !== undefined && endedGrants.has(payload.grantId)) return
        const endsAtMs =
          expiresInSeconds === undefined
            ? Number.POSITIVE_INFINITY
            : Date.now() + expiresInSeconds * 1000
        items.set(id, { payload, endsAtMs, consumedAtMs: undefined })
      },
      async find(id) {
        return present(findStored(id))
      },
      async findByUid(uid) {
        return present([...items.values()].find(({ payload }) => payload.uid === uid))
      },
      async findByUserCode(userCode) {
        return present([...items.values()].find(({ payload }) => payload.userCode === userCode))
      },
      async consume(id) {
        const stored = findStored(id)
        if (stored === undefined) return
        if (stored.consumedAtMs !== undefined && !isWithinGrace(stored)) {
          reuse.onReuse()
          if (stored.payload.grantId !== undefined) endGrant(stored.payload.grantId)
          throw new InvalidGrant('used at the same time')
        }
        stored.consumedAtMs ??= Date.now()
        stored.payload.consumed = Math.floor(stored.consumedAtMs / 1000)
      },
      async destroy(id) {
        items.delete(id)
      },
      async revokeByGrantId(grantId) {
        endedGrants.add(grantId)
        for (const [id, { payload }] of items) if (payload.grantId === grantId) items.delete(id)
      },
    }
  }
}
