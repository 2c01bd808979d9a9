import type { Person } from '../core/caller.ts'
import type { ActivityVerifier } from '../core/ports/activity-proof.ts'
import type { ActivitySigner } from '../core/ports/activity-signer.ts'
import type { Administration } from '../core/ports/administration.ts'
import type { ActivityFeed } from '../core/activity-feed.ts'
import type { ActivityReports } from '../core/ports/activity-reports.ts'
import type { ActivityStore } from '../core/ports/activity-store.ts'
import type { Authenticator, SignIn } from '../core/ports/authenticator.ts'
import type {
  Connections,
  CredentialResolver,
  OAuthConnector,
  RefusalRecorder,
} from '../core/ports/broker-services.ts'
import type { Clock } from '../core/ports/clock.ts'
import type { Gateway } from '../core/ports/gateway.ts'
import type { Pages } from '../core/ports/pages.ts'
import type { Challenge, ProtectedResources } from '../core/ports/protected-resources.ts'
import type { Upstream } from '../core/upstream.ts'

/** All that the HTTP room uses of the rest of the house. */
export type HttpServices = {
  /** An origin without a trailing slash. Nothing is ever derived from a request's own Host or URL. */
  readonly publicUrl: string
  readonly upstreams: ReadonlyMap<string, Upstream>
  /** Origins that connect may send a person back to, besides `publicUrl`. */
  readonly returnTo: readonly string[]
  /** Origins of browser clients of the gateway, besides `publicUrl`. */
  readonly allowedOrigins: readonly string[]
  readonly clock: Clock
  readonly log: HttpLog
  readonly authenticator: Authenticator
  readonly challenge: Challenge
  /** Absent when `identity.login` is: then there are no pages and no sessions. */
  readonly signIn: SignIn | undefined
  readonly resolver: CredentialResolver
  readonly refusals: RefusalRecorder
  readonly connections: Connections
  readonly administration: Administration
  readonly connector: OAuthConnector
  readonly gateway: Gateway
  readonly activity: ActivityStore
  readonly activityReports: ActivityReports
  readonly activityFeed: Pick<ActivityFeed, 'follow'>
  readonly activityProof: {
    readonly verifier: ActivityVerifier
    readonly signer: Pick<ActivitySigner, 'keys'>
  }
  readonly protectedResources: Pick<ProtectedResources, 'document'>
  readonly clientDocuments: ClientDocuments
  readonly readiness: readonly ReadinessCheck[]
  /** Absent when the metrics have a listener of their own. */
  readonly metrics: Metrics | undefined
  readonly pages: Pages
  /** Of the product, for the OpenAPI document. */
  readonly version: string
}

/** What we say of ourselves as a client, where authorization servers fetch it. */
export type ClientDocuments = {
  /** Of the client at one upstream's authorization server; undefined where we are none. */
  document(upstream: string): Readonly<Record<string, unknown>> | undefined
}

export type ReadinessCheck = {
  readonly name: 'database' | 'spool' | 'keys'
  /** Never rejects. */
  isReady(): boolean | Promise<boolean>
}

export type Metrics = { readonly contentType: string; text(): Promise<string> }

/** The only thing this room logs: a failure that no code stands for, by its class and code, never its text. */
export type HttpLog = {
  error(entry: {
    readonly event: 'request_failed'
    readonly requestId: string
    readonly errorClass: string
    readonly errorCode: string | undefined
  }): void
}

/** Who reads the activity log: an admin, or a service that may. */
export type ActivityReader =
  | { readonly kind: 'admin'; readonly person: Person }
  | { readonly kind: 'service'; readonly id: string }
