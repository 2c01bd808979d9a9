import type { ActivityDestination } from '../core/activity-destination.ts'
import type { Admins, Issuer, Login, ServiceWithKeys } from '../core/issuer.ts'
import type { Secret } from '../core/secret.ts'
import type { Upstream } from '../core/upstream.ts'

/** A configuration that passed every check: what the rooms are built from. */
export type BrokerConfig = {
  /** An origin without a trailing slash: the only source of issuer, audience, redirect and cookie scope. */
  readonly publicUrl: string
  readonly listen: {
    readonly host: string
    readonly port: number
    readonly metrics: { readonly host: string; readonly port: number } | undefined
  }
  /** Absolute path. */
  readonly dataDir: string
  readonly database: {
    /** Absent: the embedded PostgreSQL under `dataDir`. */
    readonly url: Secret | undefined
    readonly pool: number
  }
  /** The first seals, all of them open. Each secret is the base64 of 32 bytes. */
  readonly encryptionKeys: readonly { readonly id: string; readonly secret: Secret }[]
  readonly identity: {
    readonly issuers: readonly Issuer[]
    readonly shareOpaqueTokens: boolean
    readonly login: Login | undefined
    readonly admins: Admins
    readonly services: readonly ServiceWithKeys[]
  }
  readonly upstreams: ReadonlyMap<string, Upstream>
  /** Origins that connect may send a person back to, besides `publicUrl`. */
  readonly returnTo: readonly string[]
  /** Origins of browser clients of the gateway. */
  readonly allowedOrigins: readonly string[]
  readonly audit: {
    readonly durability: 'process' | 'disk'
    readonly spoolLimitBytes: number
    readonly whenFull: 'refuse' | 'drop'
    readonly retentionDays: number
    readonly destinations: readonly ActivityDestination[]
  }
}
