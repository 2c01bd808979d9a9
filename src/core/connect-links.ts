import { isSamePerson, type Person } from './caller.ts'
import { connectionState } from './connection-state.ts'
import { credentialKeyOf } from './credential.ts'
import { BrokerError } from './errors.ts'
import { AcquisitionFailure } from './failure-verdict.ts'
import type { AuthorizationClient } from './ports/authorization-client.ts'
import type { ConnectPageView, OAuthConnector } from './ports/broker-services.ts'
import type { Clock } from './ports/clock.ts'
import type { ConnectStore, ConnectTicket } from './ports/connect-store.ts'
import type { CredentialStore } from './ports/credential-store.ts'
import type { UpstreamDiscovery } from './ports/upstream-discovery.ts'
import { upstreamUnavailable } from './refusals.ts'
import type { Secret } from './secret.ts'
import { bindingOf, isConnectable, mayUseUpstream, type Upstream } from './upstream.ts'

/** Connecting up to the moment at which the browser leaves: the link, what its page shows, and the person's yes. */
export function createConnectLinks(ports: {
  readonly publicUrl: string
  readonly redirectUri: (upstream: Upstream) => string
  readonly upstreams: ReadonlyMap<string, Upstream>
  readonly discovery: Pick<UpstreamDiscovery, 'settle'>
  readonly connects: Omit<ConnectStore, 'takeFlow'>
  readonly credentials: Pick<CredentialStore, 'find'>
  readonly authorization: Pick<AuthorizationClient, 'host' | 'request'>
  readonly clock: Clock
}): Omit<OAuthConnector, 'complete'> {
  const { publicUrl, redirectUri, upstreams, discovery, connects, credentials } = ports
  const { authorization, clock } = ports

  const issueLink: OAuthConnector['issueLink'] = async (options) => {
    const { person, returnTo } = options
    if (!mayUseUpstream(person, options.upstream)) throw new BrokerError('policy_denied')
    if (!isConnectable(options.upstream)) throw new BrokerError('not_connectable')
    const upstream = await discovery.settle(options.upstream)
    const { ticket, expiresAt } = await connects.issueTicket({
      ...credentialKeyOf(person, upstream),
      returnTo,
      scopes: upstream.credential.scopes,
      claims: undefined,
    })
    return { url: linkOf(ticket), expiresAt }
  }

  const offerLink: OAuthConnector['offerLink'] = async (options) => {
    const { person, claims, scopes } = options
    if (!isConnectable(options.upstream) && claims === undefined) return `${publicUrl}/connections`
    const upstream = await discovery.settle(options.upstream)
    const { ticket } = await connects.offerTicket({
      ...credentialKeyOf(person, upstream),
      scopes: scopes ?? upstream.credential.scopes,
      claims,
    })
    return linkOf(ticket)
  }

  function linkOf(ticket: Secret): string {
    return `${publicUrl}/connect/${ticket.reveal()}`
  }

  const view: OAuthConnector['view'] = async ({ ticket, person }) => {
    const { found, upstream: written } = await findOwn(ticket, person)
    if (found.isOver) return overView(found, written)
    if (!isConnectable(written)) return { kind: 'sign_in_again', upstream: written }
    const upstream = await discovery.settle(written)
    const authorizationServerHost = await asked(() => authorization.host(upstream))
    return { kind: 'confirm', upstream, authorizationServerHost, scopes: found.scopes }
  }

  /** The link, its upstream, and the certainty that both are this person's. */
  async function findOwn(
    ticket: string,
    person: Person,
  ): Promise<{ found: ConnectTicket; upstream: Upstream }> {
    const found = await connects.findTicket(ticket)
    const upstream = found === undefined ? undefined : upstreams.get(found.upstream)
    if (found === undefined || upstream === undefined) throw new BrokerError('connect_link_invalid')
    if (!isSamePerson(found, person)) throw new BrokerError('connect_wrong_person')
    if (!mayUseUpstream(person, upstream)) throw new BrokerError('policy_denied')
    return { found, upstream }
  }

  async function overView(ticket: ConnectTicket, upstream: Upstream): Promise<ConnectPageView> {
    const stored = await credentials.find(credentialKeyOf(ticket, upstream))
    const connection = stored?.connection
    if (connectionState(connection, upstream, clock.now()).status === 'connected') {
      return { kind: 'already_connected', upstream }
    }
    throw new BrokerError('connect_link_invalid')
  }

  const confirm: OAuthConnector['confirm'] = async ({ ticket, person, browser }) => {
    const { found, upstream: written } = await findOwn(ticket, person)
    if (found.isOver) throw new BrokerError('connect_link_invalid')
    const upstream = await discovery.settle(written)
    if (!isConnectable(upstream)) {
      if (found.claims === undefined) throw new BrokerError('connect_link_invalid')
      const used = await connects.useTicket(ticket, credentialKeyOf(person, upstream))
      if (!used) throw new BrokerError('connect_link_invalid')
      return { kind: 'sign_in', claims: found.claims, returnTo: '/connections' }
    }
    const { scopes, claims, returnTo } = found
    const request = await asked(() =>
      authorization.request(upstream, { redirectUri: redirectUri(upstream), scopes, claims }),
    )
    const begun = await connects.beginFlow(ticket, {
      ...credentialKeyOf(person, upstream),
      state: request.state,
      browser,
      returnTo,
      scopes,
      codeVerifier: request.codeVerifier,
      expectedIssuer: request.expectedIssuer,
      issuerRequired: request.issuerRequired,
      binding: bindingOf(upstream.credential),
    })
    if (!begun) throw new BrokerError('connect_link_invalid')
    return { kind: 'authorize', url: request.url }
  }

  return { issueLink, offerLink, view, confirm }
}

/** Asks the authorization server before the browser goes there; what it cannot say is a refusal in our words. */
async function asked<T>(question: () => Promise<T>): Promise<T> {
  try {
    return await question()
  } catch (error) {
    if (!(error instanceof AcquisitionFailure)) throw error
    throw error.verdict.kind === 'retry_at'
      ? upstreamUnavailable(error.verdict.retryAfterSeconds ?? 1, error)
      : new BrokerError('upstream_misconfigured', { cause: error })
  }
}
