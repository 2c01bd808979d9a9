import type { BrokerConfig } from '../config/broker-config.ts'
import type { Clock } from '../core/ports/clock.ts'
import type { HttpClient } from '../core/ports/http-client.ts'
import type { Sealer } from '../core/ports/sealer.ts'
import type { Timer } from '../core/ports/timer.ts'
import type { Upstream } from '../core/upstream.ts'
import type { ClientDocuments } from '../http/services.ts'
import type { BrokerLog } from '../log.ts'
import { clientDocument } from '../oauth/client-registration.ts'
import { createUpstreamDiscovery, type DiscoveredUpstreams } from '../oauth/upstream-discovery.ts'
import { createDiscoveryStore } from '../sealing/discovery-store.ts'
import type { Database } from '../storage/database.ts'
import { createDiscoveryRecords } from '../storage/discovery-records.ts'

/** How often it is looked whether another replica found something. */
const catchUpEveryMs = 3000

export type Discovery = DiscoveredUpstreams & {
  /** Every upstream, with what was found of it so far. */
  readonly upstreams: ReadonlyMap<string, Upstream>
  readonly clientDocuments: ClientDocuments
  start(): void
  stop(): void
}

/** Joins what finds out about upstreams whose configuration does not say everything. */
export function createDiscovery(ports: {
  readonly config: BrokerConfig
  readonly database: Database
  readonly sealer: Sealer
  readonly http: HttpClient
  readonly clock: Clock
  readonly timer: Timer
  readonly log: BrokerLog
  readonly onChanged: () => void
}): Discovery {
  const { config, database, sealer, http, clock, timer, log, onChanged } = ports
  const { publicUrl } = config
  const upstreams = new Map(config.upstreams)
  const store = createDiscoveryStore({ records: createDiscoveryRecords(database), sealer })
  const discovered = createUpstreamDiscovery({
    publicUrl,
    upstreams,
    store,
    http,
    clock,
    log,
    onChanged,
  })
  const isNeeded = [...upstreams.values()].some(({ credential }) => credential.discovery)
  let stopped = false
  let cancel = (): void => {}

  function later(): void {
    cancel = timer.after(catchUpEveryMs, () => void look())
  }

  async function look(): Promise<void> {
    // Where the database is away, the next look will do.
    await discovered.catchUp().catch(() => {})
    if (!stopped) later()
  }

  return {
    ...discovered,
    upstreams,
    clientDocuments: {
      document(name) {
        const isOurs = config.upstreams.get(name)?.credential.discovery !== undefined
        return isOurs ? clientDocument(publicUrl, name) : undefined
      },
    },
    start() {
      if (isNeeded) later()
    },
    stop() {
      stopped = true
      cancel()
    },
  }
}
