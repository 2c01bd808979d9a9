import { setTimeout as sleep } from 'node:timers/promises'
import type { BrokerError } from '../core/errors.ts'
import type { Clock } from '../core/ports/clock.ts'
import type {
  DiscoveryStore,
  DiscoverySubject,
  FoundServer,
  RegisteredClient,
  RegistrationKey,
} from '../core/ports/discovery-store.ts'
import type { HttpClient } from '../core/ports/http-client.ts'
import type { UpstreamDiscovery } from '../core/ports/upstream-discovery.ts'
import { createSingleFlight } from '../core/single-flight.ts'
import { bindingOf, isSameBinding, type Upstream } from '../core/upstream.ts'
import {
  clientDocumentUrl,
  clientMetadata,
  registerClient,
  wayToRegister,
} from './client-registration.ts'
import {
  DiscoveryFailure,
  type DiscoveryFault,
  type DiscoveryStep,
  refusalOf,
} from './discovery-failure.ts'
import { searchServer } from './server-search.ts'

/** What discovery tells the operator. Closed: nothing of a server's answer fits. */
export type DiscoveryLog = {
  info(entry: {
    readonly event: 'upstream_discovered' | 'upstream_client_registered'
    readonly upstream: string
  }): void
  warn(
    entry:
      | {
          readonly event: 'upstream_discovery_failed'
          readonly upstream: string
          readonly step: DiscoveryStep
          readonly fault: DiscoveryFault
          /** What would allow a refused address. */
          readonly setting?: string
        }
      /** It names another authorization server or client than before: its people have to connect anew. */
      | { readonly event: 'upstream_server_changed'; readonly upstream: string }
      | { readonly event: 'upstream_client_forgotten'; readonly upstream: string },
  ): void
}

const failureKeptMs = 5000
/** So often a minute an upstream is looked at again, whoever's credential it refuses. */
const looksPerMinute = 10
/** How long a client is waited for that another replica registers. */
const registrationWaitMs = 20_000
const lookAtRegistrationMs = 100

export interface DiscoveredUpstreams extends UpstreamDiscovery {
  /** Takes over what is known in the database by now, from before or of other replicas. Asks no other server. */
  catchUp(): Promise<void>
  /** The server says that it does not know our client: where we registered it, another takes its place. */
  clientRefused(upstream: Upstream): Promise<void>
}

/**
 * Settles upstreams that leave their authorization server to be found. What was found is in `upstreams` from then on, which
 * everybody reads, in the database for other replicas and the next start, and nowhere else.
 */
export function createUpstreamDiscovery(ports: {
  readonly publicUrl: string
  /** As the configuration has them; what was found takes their place. */
  readonly upstreams: Map<string, Upstream>
  readonly store: DiscoveryStore
  readonly http: HttpClient
  readonly clock: Clock
  readonly log: DiscoveryLog
  /** Credentials in memory may be of a server that is not the upstream's any more. */
  readonly onChanged: () => void
}): DiscoveredUpstreams {
  const { publicUrl, upstreams, store, http, clock, log, onChanged } = ports
  const written = new Map([...upstreams].filter(([, { credential }]) => credential.discovery))
  const flights = createSingleFlight<Upstream>()
  const failures = new Map<string, { readonly error: BrokerError; readonly atMs: number }>()
  const looks = new Map<string, number[]>()
  let caughtUpWith: string | undefined

  async function settle(upstream: Upstream): Promise<Upstream> {
    const asWritten = written.get(upstream.name)
    if (asWritten === undefined) return upstream
    const current = upstreams.get(upstream.name)
    if (current?.credential.discovery?.found !== undefined) return current
    const failure = failures.get(upstream.name)
    if (failure !== undefined && clock.now().getTime() - failure.atMs < failureKeptMs) {
      throw failure.error
    }
    return flights.join(`first ${upstream.name}`, () =>
      orRefusal(asWritten, () => settleFirst(asWritten)),
    ).result
  }

  async function settleFirst(asWritten: Upstream): Promise<Upstream> {
    const found = await store.find(subjectOf(asWritten))
    if (found !== undefined) {
      try {
        return publish(settledBy(asWritten, found, await clientAt(asWritten, found)))
      } catch (error) {
        // Perhaps there is another server by now.
        if (!(error instanceof DiscoveryFailure)) throw error
      }
    }
    return search(asWritten, undefined)
  }

  async function search(asWritten: Upstream, known: string | undefined): Promise<Upstream> {
    const found = await searchServer(http, asWritten, { known })
    const client = await clientAt(asWritten, found)
    await store.put(subjectOf(asWritten), found)
    log.info({ event: 'upstream_discovered', upstream: asWritten.name })
    return publish(settledBy(asWritten, found, client))
  }

  async function lookAgain(upstream: Upstream): Promise<Upstream> {
    const asWritten = written.get(upstream.name)
    if (asWritten === undefined) return upstream
    const known = await settle(upstream)
    return flights.join(`again ${upstream.name}`, async () => {
      if (!mayLook(upstream.name)) return known
      try {
        return await search(asWritten, known.credential.issuer)
      } catch (error) {
        if (!(error instanceof DiscoveryFailure)) throw error
        // Its refresh tokens still go to nobody but the server that gave them.
        report(asWritten, error)
        return known
      }
    }).result
  }

  function mayLook(name: string): boolean {
    const nowMs = clock.now().getTime()
    const recent = (looks.get(name) ?? []).filter((atMs) => nowMs - atMs < 60_000)
    const may = recent.length < looksPerMinute
    looks.set(name, may ? [...recent, nowMs] : recent)
    return may
  }

  async function orRefusal(asWritten: Upstream, work: () => Promise<Upstream>): Promise<Upstream> {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof DiscoveryFailure)) throw error
      report(asWritten, error)
      const refusal = refusalOf(error)
      failures.set(asWritten.name, { error: refusal, atMs: clock.now().getTime() })
      throw refusal
    }
  }

  function report({ name }: Upstream, { step, fault }: DiscoveryFailure): void {
    const setting = `upstreams.${name}.allow_private_network`
    log.warn({
      event: 'upstream_discovery_failed',
      upstream: name,
      step,
      fault,
      ...(fault === 'address_refused' ? { setting } : {}),
    })
  }

  /** Our client at that server: one that was registered before stays, so that nobody has to connect anew. */
  async function clientAt(asWritten: Upstream, found: FoundServer): Promise<RegisteredClient> {
    return (await clientWithoutAsking(asWritten, found)) ?? register(asWritten, found)
  }

  async function clientWithoutAsking(
    { name }: Upstream,
    found: FoundServer,
  ): Promise<RegisteredClient | undefined> {
    const registered = await store.findClient(registrationOf(name, found))
    if (registered !== undefined) return registered
    if (wayToRegister(publicUrl, found) !== 'document') return undefined
    return { clientId: clientDocumentUrl(publicUrl, name), authentication: { method: 'none' } }
  }

  /** Once over all replicas. @throws DiscoveryFailure */
  async function register(asWritten: Upstream, found: FoundServer): Promise<RegisteredClient> {
    if (wayToRegister(publicUrl, found) === 'none') {
      throw new DiscoveryFailure('client', 'no_way_to_register')
    }
    const key = registrationOf(asWritten.name, found)
    const giveUpAt = performance.now() + registrationWaitMs
    while (performance.now() < giveUpAt) {
      if (await store.claimRegistration(key)) return registerNow(asWritten, found, key)
      const registered = await store.findClient(key)
      if (registered !== undefined) return registered
      await sleep(lookAtRegistrationMs)
    }
    throw new DiscoveryFailure('client', 'no_answer')
  }

  async function registerNow(
    asWritten: Upstream,
    found: FoundServer,
    key: RegistrationKey,
  ): Promise<RegisteredClient> {
    try {
      const { client, expiresAt } = await registerClient(http, settledBy(asWritten, found), {
        metadata: clientMetadata(publicUrl, asWritten.name),
        found,
      })
      await store.putClient(key, client, expiresAt)
      log.info({ event: 'upstream_client_registered', upstream: asWritten.name })
      return client
    } catch (error) {
      await store.releaseRegistration(key).catch(() => {})
      throw error
    }
  }

  function registrationOf(upstream: string, { issuer }: FoundServer): RegistrationKey {
    return { authorizationServer: issuer, redirectUri: `${publicUrl}/callback/${upstream}` }
  }

  function publish(settled: Upstream): Upstream {
    const before = upstreams.get(settled.name)
    failures.delete(settled.name)
    upstreams.set(settled.name, settled)
    const isFirst = before?.credential.discovery?.found === undefined
    if (isFirst || isSameBinding(bindingOf(before.credential), bindingOf(settled.credential))) {
      return settled
    }
    log.warn({ event: 'upstream_server_changed', upstream: settled.name })
    onChanged()
    return settled
  }

  async function catchUp(): Promise<void> {
    if (written.size === 0) return
    const version = await store.version()
    if (version === caughtUpWith) return
    for (const asWritten of written.values()) {
      const found = await store.find(subjectOf(asWritten))
      const client = found && (await clientWithoutAsking(asWritten, found))
      if (found !== undefined && client !== undefined) {
        publish(settledBy(asWritten, found, client))
      }
    }
    caughtUpWith = version
  }

  async function clientRefused(upstream: Upstream): Promise<void> {
    const { name, credential } = upstream
    const asWritten = written.get(name)
    const { issuer, clientId } = credential
    if (asWritten === undefined || issuer === undefined) return
    // A document of our own is ours to serve; no other would be any better.
    if (clientId === clientDocumentUrl(publicUrl, name)) return
    const key = { authorizationServer: issuer, redirectUri: `${publicUrl}/callback/${name}` }
    const dropped = await store.dropClient(key, clientId)
    if (!dropped) return catchUp()
    log.warn({ event: 'upstream_client_forgotten', upstream: name })
    upstreams.set(name, asWritten)
    onChanged()
    await settle(asWritten)
  }

  return {
    settle,
    lookAgain,
    isFailing: ({ name }) => failures.has(name),
    catchUp,
    clientRefused,
  }
}

function subjectOf({ name, url, credential }: Upstream): DiscoverySubject {
  const { discovery, issuer } = credential
  const isWritten = discovery?.issuer === false && issuer !== undefined
  return { upstream: name, source: isWritten ? `${url} ${issuer}` : url }
}

/** The upstream with what was found in the places that its configuration left empty. */
function settledBy(asWritten: Upstream, found: FoundServer, client?: RegisteredClient): Upstream {
  const { credential } = asWritten
  const { discovery } = credential
  if (discovery === undefined) return asWritten
  const asksOffline = discovery.scopes && found.scopes.includes('offline_access')
  return {
    ...asWritten,
    credential: {
      ...credential,
      issuer: found.issuer,
      authorizationEndpoint: found.authorizationEndpoint,
      tokenEndpoint: found.tokenEndpoint,
      revocationEndpoint: found.revocationEndpoint,
      clientId: client?.clientId ?? '',
      clientAuthentication: client?.authentication ?? { method: 'none' },
      scopes: discovery.scopes ? found.scopes : credential.scopes,
      resource: discovery.resource ? found.resource : credential.resource,
      // Without it an OpenID provider must leave `offline_access` out of account (OpenID Connect Core §11).
      authorizationParameters: {
        ...(asksOffline ? { prompt: 'consent' } : {}),
        ...credential.authorizationParameters,
      },
      discovery: { ...discovery, found: { issuerInResponses: found.issuerInResponses } },
    },
  }
}
