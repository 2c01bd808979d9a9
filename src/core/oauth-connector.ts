import { createConnectCallback } from './connect-callback.ts'
import { createConnectLinks } from './connect-links.ts'
import type { OAuthConnector } from './ports/broker-services.ts'
import type { Upstream } from './upstream.ts'

type LinkPorts = Parameters<typeof createConnectLinks>[0]
type CallbackPorts = Parameters<typeof createConnectCallback>[0]

/**
 * Connects a person's account: link → sign-in → confirmation → authorization server → callback.
 *
 * A link carries no person and opens for its own person only. The flow that its confirmation starts is bound to the browser
 * and the person, and the callback checks both, the upstream and the issuer before any token request is made, so that nobody
 * can have another person's account connected to their own name.
 */
export function createOAuthConnector(
  ports: Omit<LinkPorts & CallbackPorts, 'redirectUri'>,
): OAuthConnector {
  // One for both: a server compares the address of the redemption with that of the request (RFC 6749 §4.1.3).
  const redirectUri = (upstream: Upstream) => `${ports.publicUrl}/callback/${upstream.name}`
  return {
    ...createConnectLinks({ ...ports, redirectUri }),
    ...createConnectCallback({ ...ports, redirectUri }),
  }
}
