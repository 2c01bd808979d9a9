import type { CredentialResolver, ResolvedCredential } from '../../core/ports/broker-services.ts'
import type { GatewayCall } from '../../core/ports/gateway.ts'
import { linkIn, resolution } from '../forward.ts'

/** Where a person stands with an upstream, for one call. */
export type Standing =
  | { readonly kind: 'connected'; readonly credential: ResolvedCredential }
  | { readonly kind: 'unconnected'; readonly link: string }

/**
 * `mayGoOn`: the gateway answers in the person's place where they are not connected.
 * @throws BrokerError whatever a resolution can refuse and no connection would mend
 */
export async function standingOf(
  resolver: CredentialResolver,
  call: GatewayCall,
  mayGoOn: boolean,
): Promise<Standing> {
  try {
    const credential = await resolver.resolve(resolution(call, { mayGoOnUnconnected: mayGoOn }))
    return { kind: 'connected', credential }
  } catch (error) {
    return { kind: 'unconnected', link: linkIn(error) }
  }
}
