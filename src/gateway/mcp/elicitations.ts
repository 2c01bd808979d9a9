import type {
  GatewaySessionRecord,
  GatewaySessionRecords,
} from '../../core/ports/gateway-session-records.ts'
import type { ConnectionStart } from './connection-wait.ts'

/** The links that a session's client was given in an error, until it was told that the person is done (2025-11-25). */
export type Elicitations = {
  /** `connectedAt`: when the connection began that was not enough; undefined where there was none. */
  readonly add: (
    session: GatewaySessionRecord,
    elicitationId: string,
    connectedAt: Date | undefined,
  ) => Promise<void>
  /** Those that are done with the connection that there is now, once over all replicas. */
  readonly takeDone: (
    session: GatewaySessionRecord,
    now: ConnectionStart,
  ) => Promise<readonly string[]>
}

/** An entry is the id, and the instant in milliseconds or `none`. */
export function createElicitations(ports: {
  readonly records: Pick<GatewaySessionRecords, 'addElicitation' | 'takeElicitations'>
}): Elicitations {
  const { records } = ports
  return {
    add: (session, elicitationId, connectedAt) =>
      records.addElicitation(session, `${elicitationId} ${connectedAt?.getTime() ?? 'none'}`),
    async takeDone(session, { at }) {
      const done: string[] = []
      for (const entry of await records.takeElicitations(session)) {
        const [elicitationId = '', connectedAt] = entry.split(' ')
        // The same connection is still the one that was not enough.
        if (connectedAt === String(at?.getTime())) await records.addElicitation(session, entry)
        else done.push(elicitationId)
      }
      return done
    },
  }
}
