import type { FoundServer } from '../core/ports/discovery-store.ts'
import type { HttpClient } from '../core/ports/http-client.ts'
import type { Upstream } from '../core/upstream.ts'
import { wayToRegister } from './client-registration.ts'
import { DiscoveryFailure, type DiscoveryFault, type DiscoveryStep } from './discovery-failure.ts'
import { type DiscoveryProgress, searchServer } from './server-search.ts'

/** What one step of a discovery came to. What it found is a server's own words. */
export type ProbeStep = {
  readonly step: DiscoveryStep
  /** Undefined where it found what it looked for. */
  readonly fault: DiscoveryFault | undefined
  readonly found: Readonly<Record<string, string | readonly string[] | boolean | null>>
}

export type ProbeReport = {
  readonly url: string
  readonly steps: readonly ProbeStep[]
  readonly server: FoundServer | undefined
  /** How a client comes to be there; `written`: the configuration says how its credentials come to be. */
  readonly client: 'document' | 'registration' | 'written' | 'none'
  /** Whether people could connect to it as it is configured, or by its url alone. */
  readonly works: boolean
}

/** Looks at an upstream as its discovery would, and says what every step found. Registers nothing, keeps nothing. */
export async function probeUpstream(
  http: HttpClient,
  upstream: Upstream,
  publicUrl: string,
): Promise<ProbeReport> {
  const steps: ProbeStep[] = []
  const told = (progress: DiscoveryProgress) => void steps.push(stepOf(progress))
  const { credential, url } = upstream
  const isWritten = credential.discovery === undefined
  const needsNoServer = credential.tokenEndpoint !== undefined || credential.mode === 'user_key'
  try {
    const server = await searchServer(http, asDiscovered(upstream), { told })
    const client = isWritten ? 'written' : wayToRegister(publicUrl, server)
    const fault = client === 'none' ? 'no_way_to_register' : undefined
    const found = client === 'none' ? {} : { client_by: client }
    steps.push({ step: 'client', fault, found })
    return { url, steps, server, client, works: fault === undefined }
  } catch (error) {
    if (!(error instanceof DiscoveryFailure)) throw error
    if (steps.at(-1)?.fault !== error.fault) {
      steps.push({ step: error.step, fault: error.fault, found: {} })
    }
    const client = isWritten ? 'written' : 'none'
    return { url, steps, server: undefined, client, works: isWritten && needsNoServer }
  }
}

/** Also of an upstream whose client is written: it is asked all the same, with what is written as it stands. */
function asDiscovered(upstream: Upstream): Upstream {
  const { credential } = upstream
  if (credential.discovery !== undefined) return upstream
  const discovery = {
    issuer: credential.issuer === undefined,
    resource: true,
    scopes: true,
    found: undefined,
  }
  return { ...upstream, credential: { ...credential, discovery } }
}

function stepOf(progress: DiscoveryProgress): ProbeStep {
  if ('fault' in progress) {
    const { step, fault, issuer } = progress
    return { step, fault, found: issuer === undefined ? {} : { issuer } }
  }
  switch (progress.step) {
    case 'challenge': {
      const { resourceMetadata, scopes } = progress.found
      const found = { resource_metadata: resourceMetadata ?? null, scope: scopes ?? null }
      return { step: 'challenge', fault: undefined, found }
    }
    case 'resource_metadata': {
      const { url, resource, authorizationServers, scopes } = progress.found
      const found = {
        url,
        resource,
        authorization_servers: authorizationServers,
        scopes_supported: scopes ?? null,
      }
      return { step: 'resource_metadata', fault: undefined, found }
    }
    case 'server_metadata': {
      const { found: metadata, url } = progress
      const found = {
        url,
        issuer: metadata.issuer,
        authorization_endpoint: metadata.authorizationEndpoint ?? null,
        token_endpoint: metadata.tokenEndpoint ?? null,
        revocation_endpoint: metadata.revocationEndpoint ?? null,
        registration_endpoint: metadata.registrationEndpoint ?? null,
        client_id_metadata_document_supported: metadata.takesClientDocuments,
        pkce_s256: metadata.supportsS256,
        iss_in_responses: metadata.issuerInResponses,
        scopes_supported: metadata.scopes ?? null,
      }
      return { step: 'server_metadata', fault: undefined, found }
    }
  }
}
