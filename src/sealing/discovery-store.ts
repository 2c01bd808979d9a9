import { isBrokerError } from '../core/errors.ts'
import type { DiscoveryRecords } from '../core/ports/discovery-records.ts'
import type {
  DiscoveryStore,
  DiscoverySubject,
  FoundServer,
  RegisteredClient,
  RegistrationKey,
} from '../core/ports/discovery-store.ts'
import type { Sealer, SealingContext } from '../core/ports/sealer.ts'
import { Secret } from '../core/secret.ts'

/** The DiscoveryStore over rows of sealed bytes. */
export function createDiscoveryStore(ports: {
  readonly records: DiscoveryRecords
  readonly sealer: Sealer
}): DiscoveryStore {
  const { records, sealer } = ports

  /** What does not open is found or registered anew; the sealer tells the operator. */
  function open<Value>(
    sealed: Uint8Array | undefined,
    context: SealingContext,
    read: (json: string) => Value,
  ): Value | undefined {
    if (sealed === undefined) return undefined
    try {
      return read(sealer.open(sealed, context).reveal())
    } catch (error) {
      if (isBrokerError(error, 'credential_corrupt')) return undefined
      throw error
    }
  }

  return {
    version: () => records.version(),
    async find(subject) {
      // Sealed by this program, in this form.
      const read = (json: string) => JSON.parse(json) as FoundServer
      return open(await records.find(subject), foundContext(subject), read)
    },
    async put(subject, found) {
      const json = new Secret(JSON.stringify(found))
      await records.put(subject, sealer.seal(json, foundContext(subject)))
    },
    async findClient(key) {
      return open(await records.findClient(key), clientContext(key), readClient)
    },
    claimRegistration: (key) => records.claimRegistration(key),
    async putClient(key, client, expiresAt) {
      const sealed = sealer.seal(writeClient(client), clientContext(key))
      await records.putClient(key, { clientId: client.clientId, sealed, expiresAt })
    },
    releaseRegistration: (key) => records.releaseRegistration(key),
    dropClient: (key, clientId) => records.dropClient(key, clientId),
  }
}

type ClientJson = {
  readonly clientId: string
  readonly method: RegisteredClient['authentication']['method']
  readonly secret?: string
}

function writeClient({ clientId, authentication }: RegisteredClient): Secret {
  const { method } = authentication
  const json: ClientJson =
    authentication.method === 'none'
      ? { clientId, method }
      : { clientId, method, secret: authentication.secret.reveal() }
  return new Secret(JSON.stringify(json))
}

function readClient(json: string): RegisteredClient {
  const { clientId, method, secret = '' } = JSON.parse(json) as ClientJson
  return {
    clientId,
    authentication: method === 'none' ? { method } : { method, secret: new Secret(secret) },
  }
}

function foundContext({ upstream, source }: DiscoverySubject): SealingContext {
  return { table: 'upstream_discovery', field: 'found', upstream, source }
}

function clientContext({ authorizationServer, redirectUri }: RegistrationKey): SealingContext {
  return { table: 'client_registration', field: 'client', authorizationServer, redirectUri }
}
