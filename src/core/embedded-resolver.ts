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
    async resolve(asked) {
      refusals.admit()
      try {
        return await resolve(asked)
      } finally {
        await refusals.settled()
      }
    },
  }

  async function resolve({
    upstream: name,
    subjectToken,
    rejected,
  }: Parameters<EmbeddedResolver['resolve']>[0]): Promise<ResolvedCredential> {
    const call = { requestId: newRequestId(), startedAt: clock.now(), actor }
    const upstream = upstreams.get(name)
    const refused = (error: BrokerError): BrokerError => {
      refusals.refused({ ...call, person: undefined, upstream, reason: auditReasonOf(error) })
      return error
    }
    if (upstream === undefined) throw refused(new BrokerError('unknown_upstream'))
    const person = await verify(subjectToken, upstream).catch((error: unknown) => {
      if (!isBrokerError(error)) throw error
      const isBadToken = isBrokerError(error, 'unauthenticated', 'insufficient_scope')
      throw refused(isBadToken ? new BrokerError('invalid_subject_token', { cause: error }) : error)
    })
    return resolver.resolve({
      ...call,
      person,
      subjectToken: new Secret(subjectToken),
      service: undefined,
      upstream,
      rejected,
    })
  }

  async function verify(token: string, upstream: Upstream) {
    return authenticator.verifyBearer(token, { kind: 'upstream', upstream })
  }
}
