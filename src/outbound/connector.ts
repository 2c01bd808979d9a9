import { lookup as resolveName } from 'node:dns'
import { isIP, type LookupFunction, connect as connectTcp, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import type { buildConnector } from 'undici'

/** Whether a connection to this address may be made. */
export type AddressGuard = (address: string) => boolean

/** Resolves a name to all its addresses, as `dns.lookup` with `all` does. */
export type Lookup = (
  name: string,
  callback: (error: Error | null, addresses: readonly ResolvedAddress[]) => void,
) => void

export type ResolvedAddress = { readonly address: string; readonly family: number }

export type ConnectFault =
  | 'address_refused'
  | 'connection_failed'
  | 'deadline_passed'
  | 'name_not_resolved'
  | 'turn_passed'
  | 'tls_failed'

export const systemLookup: Lookup = (name, callback) => {
  resolveName(name, { all: true }, callback)
}

/**
 * Makes one connection, guarded three times: an address in the URL itself (resolvers are never asked for those), every
 * address that a name resolves to, and the address that the socket is really connected to.
 */
export function createConnector(options: {
  readonly guard: AddressGuard
  readonly lookup: Lookup
  /** Asked once connected, before anything is written. */
  readonly isLate: () => boolean
  /** Asked then too: whether it is still this request's turn. */
  readonly maySend: () => boolean
}): {
  readonly connect: buildConnector.connector
  /** The connection was given away to be written to: from here on a request may have been sent. */
  readonly handedOver: () => boolean
  /** Why there is no connection. */
  readonly fault: () => ConnectFault | undefined
  readonly destroy: () => void
} {
  const { guard, lookup, isLate, maySend } = options
  let socket: Socket | undefined
  let given = false
  let known: ConnectFault | undefined

  const guardedLookup: LookupFunction = (name, wanted, callback) => {
    lookup(name, (error, addresses) => {
      const [first] = addresses ?? []
      if (error !== null || first === undefined) return refuse('name_not_resolved')
      // One forbidden answer among good ones is an attempt at rebinding: none of them is used.
      if (!addresses.every(({ address }) => guard(address))) return refuse('address_refused')
      if (wanted.all === true) callback(null, [...addresses])
      else callback(null, first.address, first.family)
    })
    function refuse(fault: ConnectFault): void {
      known = fault
      callback(new Error(fault), '', 0)
    }
  }

  const connect: buildConnector.connector = ({ hostname, port, protocol }, callback) => {
    let waiting = true
    function give(fault: ConnectFault | undefined): void {
      if (!waiting || socket === undefined) return
      waiting = false
      known ??= fault
      if (known === undefined && isLate()) known = 'deadline_passed'
      if (known === undefined && !maySend()) known = 'turn_passed'
      if (known === undefined) {
        given = true
        callback(null, socket)
      } else {
        socket.destroy()
        callback(new Error(known), null)
      }
    }

    if (given) return callback(new Error('one connection only'), null)
    if (isIP(hostname) !== 0 && !guard(hostname)) {
      known = 'address_refused'
      return callback(new Error(known), null)
    }
    const secure = protocol === 'https:'
    const target = {
      host: hostname,
      port: port === '' ? (secure ? 443 : 80) : Number(port),
      lookup: guardedLookup,
      autoSelectFamily: true,
      // Node's 250 ms give up on a far server before it could answer.
      autoSelectFamilyAttemptTimeout: 2000,
    }
    const opened: Socket = secure
      ? connectTls({
          ...target,
          // Server Name Indication holds names only (RFC 6066 §3); the certificate is checked against the address then.
          servername: isIP(hostname) === 0 ? hostname : '',
          ALPNProtocols: ['http/1.1'],
        })
      : connectTcp(target)
    socket = opened
    let connected = false
    opened.setNoDelay(true)
    opened.once('connect', () => {
      connected = true
      if (opened.remoteAddress === undefined) give('connection_failed')
      else if (!guard(opened.remoteAddress)) give('address_refused')
      else if (!secure) give(undefined)
    })
    if (secure) opened.once('secureConnect', () => give(undefined))
    opened.on('error', () => give(connected ? 'tls_failed' : 'connection_failed'))
    opened.once('close', () => give(connected ? 'tls_failed' : 'connection_failed'))
  }

  return {
    connect,
    handedOver: () => given,
    fault: () => known,
    destroy: () => socket?.destroy(),
  }
}
