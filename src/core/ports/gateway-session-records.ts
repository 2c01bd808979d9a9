import type { CredentialKey } from '../credential.ts'

/** A session of an MCP client as it lies in the database: known by the hash of the id that the client has. */
export type GatewaySessionRecord = CredentialKey & {
  readonly idHash: Uint8Array
  /** What the client said of itself in `initialize`: what the upstream is told. */
  readonly initialize: Readonly<Record<string, unknown>>
  /** The revision that the client was answered in. */
  readonly revision: string
  /**
   * The upstream's own session, as long as the connection that it was opened with is there and the same. `sealedId` is
   * undefined where the upstream keeps none.
   */
  readonly at: UpstreamSessionRecord | undefined
}

export type UpstreamSessionRecord = {
  readonly sealedId: Uint8Array | undefined
  /** The revision that the upstream named. */
  readonly revision: string
}

/** Tells a person's connections for one upstream apart, more finely than a `Date` can; undefined where there is none. */
export type ConnectionMark = string | undefined

/**
 * Every change is a single statement with the owner in its WHERE, and instants are the database's.
 * Every method throws BrokerError storage_unavailable.
 */
export interface GatewaySessionRecords {
  /** Open, where it is, only as long as the connection is still that one. */
  insert(session: GatewaySessionRecord, connection: ConnectionMark): Promise<void>
  /** Of the person's connection as it is now. */
  connectionOf(key: CredentialKey): Promise<ConnectionMark>
  /** Undefined for one that is unknown, ended, or of another person or upstream: nothing tells these apart. */
  find(idHash: Uint8Array, key: CredentialKey): Promise<GatewaySessionRecord | undefined>
  /** The right to open the session at the upstream, for half a minute; undefined where another has it or it is open. */
  claimOpening(
    session: GatewaySessionRecord,
  ): Promise<{ readonly connection: ConnectionMark } | undefined>
  /** Open only as long as the connection is still that one. False where the session has ended meanwhile. */
  setOpened(
    session: GatewaySessionRecord,
    at: UpstreamSessionRecord,
    connection: ConnectionMark,
  ): Promise<boolean>
  /** Gives the right back; of one that is open it notes, for all replicas, that the upstream does not know it any more. */
  setClosed(session: GatewaySessionRecord): Promise<void>
  addElicitation(session: GatewaySessionRecord, elicitationId: string): Promise<void>
  /** Those that were added, once. */
  takeElicitations(session: GatewaySessionRecord): Promise<readonly string[]>
  /** Gives it as it was at that moment; undefined where it had ended. */
  remove(session: GatewaySessionRecord): Promise<GatewaySessionRecord | undefined>
}

/** What an upstream said of itself to anyone. */
export type UpstreamServerRecord = {
  /** The modern revisions that it named; empty where it speaks only those with sessions; undefined where it was never asked. */
  readonly revisions: readonly string[] | undefined
  readonly capabilities: Readonly<Record<string, unknown>> | undefined
}

export interface UpstreamServerRecords {
  find(upstream: string): Promise<UpstreamServerRecord>
  /** Notes what it said; what is undefined stays as it was. */
  note(upstream: string, server: UpstreamServerRecord): Promise<void>
}
