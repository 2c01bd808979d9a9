import type { Actor, Person } from './caller.ts'
import { BrokerError, isBrokerError } from './errors.ts'
import type { Authenticator } from './ports/authenticator.ts'
import type {
  CredentialResolver,
  RefusalRecorder,
  ResolvedCredential,
} from './ports/broker-services.ts'
import type { Clock } from './ports/clock.ts'
import { auditReasonOf } from './resolution-recorder.ts'
import { Secret } from './secret.ts'
import type { Upstream } from './upstream.ts'

/** What a program that embeds the broker asks on every tool call, instead of `POST /api/v1/resolve`. */
export interface EmbeddedResolver {
  /**
   * Gives the credential of the person whose access token this is, and leaves the record of the call (actor: the service
   * `embedder`). `rejected` is the fingerprint of a credential that the upstream answered 401 to.
   * @throws BrokerError unknown_upstream, invalid_subject_token, connect_required (`details.connectUrl`), policy_denied …
   */
  resolve(call: {
    readonly upstream: string
    readonly subjectToken: string
    readonly rejected?: string
  }): Promise<ResolvedCredential>
}

const actor = { kind: 'service', id: 'embedder' } as const

export function createEmbeddedResolver(ports: {
  readonly upstreams: ReadonlyMap<string, Upstream>
  readonly authenticator: Pick<Authenticator, 'verifyBearer'>
  readonly resolver: CredentialResolver
  readonly refusals: RefusalRecorder
  readonly newRequestId: () => string
  readonly clock: Clock
}): EmbeddedResolver {
  const { upstreams, authenticator, resolver, refusals, newRequestId, clock } = ports
  return {
    async resolve({ upstream: name, subjectToken, rejected }) {
      refusals.admit()
      const call = { requestId: newRequestId(), startedAt: clock.now(), actor }
      try {
        const upstream = upstreams.get(name)
        if (upstream === undefined) {
          throw refused(call, undefined, new BrokerError('unknown_upstream'))
        }
        let person: Person
        try {
          const verified = authenticator.verifyBearer(subjectToken, { kind: 'upstream', upstream })
          person = verified instanceof Promise ? await verified : verified
        } catch (error) {
          throw refused(call, upstream, error)
        }
        return await resolver.resolve({
          requestId: call.requestId,
          startedAt: call.startedAt,
          actor,
          person,
          subjectToken: new Secret(subjectToken),
          service: undefined,
          upstream,
          rejected,
        })
      } finally {
        await refusals.settled()
      }
    },
  }

  /** Leaves the record of a call that the resolver is not asked about, and gives its error in the words of a resolution. */
  function refused(
    call: { readonly requestId: string; readonly startedAt: Date; readonly actor: Actor },
    upstream: Upstream | undefined,
    error: unknown,
  ): unknown {
    if (!isBrokerError(error)) return error
    const refusal = isBrokerError(error, 'unauthenticated', 'insufficient_scope')
      ? new BrokerError('invalid_subject_token', { cause: error })
      : error
    refusals.refused({ ...call, person: undefined, upstream, reason: auditReasonOf(refusal) })
    return refusal
  }
}
