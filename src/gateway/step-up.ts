import { readBearerChallenge } from '../core/bearer-challenge.ts'
import type { ConnectionView, Connections, OAuthConnector } from '../core/ports/broker-services.ts'
import type { GatewayCall } from '../core/ports/gateway.ts'
import type { StepUps } from '../core/ports/step-ups.ts'
import type { UpstreamAnswerHead } from '../core/ports/upstream-client.ts'
import { isConnectable, type Upstream } from '../core/upstream.ts'

/** A link with which the person gives an upstream more than it has. */
export type StepUpLink = { readonly link: string; readonly connectedAt: Date | undefined }

/** Turns an upstream's wish for more scope into a link, or into nothing where asking is not right or of no use. */
export type StepUpLinks = {
  readonly offer: (
    call: GatewayCall,
    challenged: readonly string[],
  ) => Promise<StepUpLink | undefined>
}

/** A person who gave the same scopes so often in 10 minutes and is asked again is asked by an upstream that never has enough. */
const mostInTenMinutes = 3

export function createStepUpLinks(ports: {
  readonly connections: Pick<Connections, 'find'>
  readonly connector: Pick<OAuthConnector, 'offerLink'>
  readonly stepUps: StepUps
}): StepUpLinks {
  const { connections, connector, stepUps } = ports
  return {
    async offer({ person, upstream }, challenged) {
      if (!isConnectable(upstream)) return undefined
      const connection = await connections.find(person, upstream, true)
      const scopes = wanted(upstream, connection, challenged)
      // Everything that it may ask for is granted: another consent would give the same credential.
      if (scopes.every((scope) => connection.scopes.includes(scope))) return undefined
      const { issuer, userId } = person
      const key = { issuer, userId, upstream: upstream.name }
      if ((await stepUps.recent(key, scopes)) >= mostInTenMinutes) return undefined
      const link = await connector.offerLink({ person, upstream, claims: undefined, scopes })
      return { link, connectedAt: connection.connectedAt ?? undefined }
    },
  }
}

/** What is configured, what is granted already, and what the upstream may ask for. */
function wanted(
  { credential }: Upstream,
  connection: Pick<ConnectionView, 'scopes'>,
  challenged: readonly string[],
): readonly string[] {
  // Only where `resource` binds the token to it may an upstream name scopes by itself: elsewhere they could be another server's.
  const mayAsk = (scope: string) =>
    credential.resource !== undefined || credential.stepUpScopes.includes(scope)
  return [
    ...new Set([...credential.scopes, ...connection.scopes, ...challenged.filter(mayAsk)]),
  ].toSorted()
}

/** The scopes that an upstream's 403 asks for (RFC 6750 §3.1); undefined where it is another refusal. */
export function challengedScopes({
  status,
  headers,
}: UpstreamAnswerHead): readonly string[] | undefined {
  if (status !== 403) return undefined
  const challenge = readBearerChallenge(headers['www-authenticate']?.toString())
  return challenge?.error === 'insufficient_scope' ? (challenge.scopes ?? []) : undefined
}
