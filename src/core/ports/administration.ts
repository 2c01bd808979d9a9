import type { Actor, PersonId } from '../caller.ts'
import type { ConnectionStatus, CredentialKey } from '../credential.ts'
import type { Upstream } from '../upstream.ts'
import type { ConnectionView } from './broker-services.ts'
import type { StoredConnection } from './credential-store.ts'

/** What admins see of everybody's connections, and how they end a person's access. */
export interface Administration {
  /** Stored connections by issuer, person and upstream, some at a time. Those of upstreams that are configured no more are among them. */
  connections(filter: ConnectionFilter): AsyncIterable<readonly AdministeredConnection[]>

  /** Every configured upstream, sorted by name. */
  upstreams(): Promise<readonly UpstreamOverview[]>

  /**
   * Takes away everything that lets anybody act for the person: their sessions, stored sign-in token, open connects and
   * connections, which are revoked at their servers. Bearers issued to them until now are refused, and assertions of them until
   * a later bearer or sign-in. True on every replica when it resolves.
   * @throws BrokerError audit_unavailable, storage_unavailable
   */
  offboard(options: {
    readonly person: PersonId
    readonly actor: Actor
    readonly requestId: string
    readonly startedAt: Date
  }): Promise<void>
}

export type ConnectionFilter = {
  readonly userId: string | undefined
  readonly upstream: string | undefined
  readonly status: ConnectionStatus | undefined
}

export type AdministeredConnection = PersonId & ConnectionView

export type UpstreamOverview = {
  readonly upstream: string
  readonly displayName: string
  readonly url: string
  readonly kind: Upstream['kind']
  readonly mode: string
  /** `paused`: its authorization server said when it may be asked again. `failing`: renewals of some connections fail for now. */
  readonly health: 'ok' | 'failing' | 'paused'
  readonly pausedUntil: Date | null
  /** How many stored connections there are of each status. */
  readonly connections: Readonly<Record<Exclude<ConnectionStatus, 'not_connected'>, number>>
  readonly lastUsedAt: Date | null
}

/** A stored connection of anybody. */
export type OverviewRow = StoredConnection & { readonly lastUsedAt: Date | undefined }

/** Connections that are alike in all that their status depends on. */
export type OverviewCount = Pick<
  StoredConnection,
  'upstream' | 'status' | 'binding' | 'renewable'
> & {
  /** Past their end. */
  readonly ended: boolean
  /** The last try of a renewal failed. */
  readonly failing: boolean
  readonly connections: number
}

/** Questions over everybody's rows. All throw BrokerError storage_unavailable. */
export interface OverviewRecords {
  /** Sorted by issuer, person and upstream, from after a key on, so many at most. */
  connections(
    filter: Pick<ConnectionFilter, 'userId' | 'upstream'>,
    after: CredentialKey | undefined,
    limit: number,
  ): Promise<readonly OverviewRow[]>

  counts(): Promise<readonly OverviewCount[]>

  /** Per upstream name, when it was last used by anybody. */
  lastUses(): Promise<ReadonlyMap<string, Date>>

  /** Until when a server is not to be asked; only pauses that last. */
  pauses(): Promise<ReadonlyMap<string, Date>>
}
