import net from 'node:net'
import { OperatorError } from '../core/operator-error.ts'
import type { Secret } from '../core/secret.ts'

/** What postgres.js is given to reach a database. Holds the password: never print it. */
export type DatabaseAddress = {
  readonly url: string
  /** Host and port, or the path of the socket: for messages. */
  readonly label: string
  /** Opens a connection; postgres.js takes it as its option `socket`, which its types do not know. */
  readonly socket: () => net.Socket | Promise<net.Socket>
}

/** libpq parameters that postgres.js would send to the server as settings, which refuses them with an unclear error. */
const unsupportedParameters: Readonly<Record<string, string>> = {
  channel_binding: 'remove it',
  gssencmode: 'remove it',
  hostaddr: 'write the address as the host',
  passfile: 'write the password into the URL, from ${file:…} if it lives in a file',
  service: 'write the host, user and database into the URL',
  sslcert: 'client certificates are not supported',
  sslkey: 'client certificates are not supported',
  sslpassword: 'client certificates are not supported',
  sslrootcert: 'name the file in the environment variable NODE_EXTRA_CA_CERTS',
}

/** How long one of several hosts may take to accept before the next is tried. */
const hostTimeoutMs = 2000

/**
 * Reads a PostgreSQL URL: TCP by name, IPv4 or IPv6, several hosts, or a unix socket (`?host=/dir`, or the directory
 * percent-encoded as the host). Sockets are opened here and not by postgres.js, because it leaves Nagle's algorithm
 * on (which costs a small COPY some 50 ms), cannot read an IPv6 address or a directory, and never reports that none of
 * several hosts answers.
 * @throws OperatorError database_url_invalid; the message never holds the URL.
 */
export function readDatabaseAddress(
  secretUrl: Secret,
  onSocket: (socket: net.Socket) => void,
): DatabaseAddress {
  const written = secretUrl.reveal()
  const authority = /^postgres(?:ql)?:\/\/([^/?#]*)/.exec(written)?.[1]
  if (authority === undefined) throw invalid('it must begin with postgres:// or postgresql://')
  if (!isPercentEncoded(authority)) throw invalid(unreadable)
  const hosts = authority.slice(authority.lastIndexOf('@') + 1)
  // `URL` reads one host; which one stands there does not matter, the sockets are opened here.
  const url = parse(hosts.includes(',') ? written.replace(hosts, 'several') : written)
  const directory = url.searchParams.get('host') ?? decodeURIComponent(url.hostname)
  const port = portOf(url.searchParams.get('port') ?? (url.port || '5432'))
  url.searchParams.delete('host')
  url.searchParams.delete('port')

  if (directory.startsWith('/')) {
    const path = `${directory.replace(/\/+$/, '')}/.s.PGSQL.${port}`
    // No room for a directory there in postgres.js.
    url.hostname = 'localhost'
    return { url: url.href, label: path, socket: () => open({ path }, onSocket) }
  }
  const targets = hosts.split(',').map((host) => tcpTarget(host, port))
  const [only] = targets
  const socket =
    targets.length === 1 && only !== undefined
      ? () => open(only, onSocket)
      : openFirst(targets, url.searchParams.has('target_session_attrs'), onSocket)
  url.hostname = 'localhost'
  return {
    url: url.href,
    label: targets.map(({ host, port: at }) => `${host}:${at}`).join(', '),
    socket,
  }
}

const unreadable = 'it cannot be read; percent-encode special characters of the password'

/** Not so with a lone `%`, over which the driver would stumble. */
function isPercentEncoded(text: string): boolean {
  try {
    decodeURIComponent(text)
    return true
  } catch {
    return false
  }
}

function parse(url: string): URL {
  let parsed: URL
  try {
    parsed = new URL(url)
  } catch {
    // The cause would print the URL with its password.
    throw invalid(unreadable)
  }
  for (const name of parsed.searchParams.keys()) {
    const advice = unsupportedParameters[name]
    if (advice !== undefined) throw invalid(`its parameter ${name} is not supported: ${advice}`)
  }
  return parsed
}

type TcpTarget = net.TcpNetConnectOpts & { readonly host: string }

function tcpTarget(written: string, defaultPort: number): TcpTarget {
  const [, bracketed, plain, port] = /^(?:\[([^\]]*)\]|([^:]*))(?::(\d+))?$/.exec(written) ?? []
  const host = bracketed ?? decodeURIComponent(plain ?? '')
  return {
    host: host === '' ? 'localhost' : host,
    port: port === undefined ? defaultPort : portOf(port),
  }
}

function portOf(written: string): number {
  const port = /^\d{1,5}$/.test(written) ? Number(written) : 0
  if (port < 1 || port > 65_535) throw invalid('its port must be a number from 1 to 65535')
  return port
}

type Target = TcpTarget | net.IpcNetConnectOpts

function open(target: Target, onSocket: (socket: net.Socket) => void): net.Socket {
  const socket = prepared(new net.Socket(), target)
  onSocket(socket)
  // Connecting waits until postgres.js has attached its listeners: an error before that would end the process.
  // It also comes before the first write, which postgres.js makes in an immediate of its own.
  setImmediate(() => {
    if (!socket.destroyed) socket.connect(target)
  })
  return socket
}

/** Opens the first host that accepts. Where the session must have an attribute, every call begins with another host. */
function openFirst(
  targets: readonly TcpTarget[],
  rotate: boolean,
  onSocket: (socket: net.Socket) => void,
): () => Promise<net.Socket> {
  let calls = 0
  return async () => {
    const start = rotate ? calls : 0
    calls += 1
    let failure = new Error('no host')
    for (let step = 0; step < targets.length; step += 1) {
      const target = targets[(start + step) % targets.length]
      if (target === undefined) continue
      try {
        const socket = await connected(target)
        onSocket(socket)
        return socket
      } catch (error) {
        failure = error instanceof Error ? error : failure
      }
    }
    // A rejection would cost the pool this slot for good; an error of the socket is a failed connection.
    const socket = new net.Socket()
    setImmediate(() => socket.destroy(failure))
    return socket
  }
}

function connected(target: TcpTarget): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    const socket = prepared(net.connect(target), target)
    const timer = setTimeout(() => {
      socket.destroy(Object.assign(new Error('no answer'), { code: 'ETIMEDOUT' }))
    }, hostTimeoutMs)
    const onError = (error: Error) => {
      clearTimeout(timer)
      reject(error)
    }
    socket.once('error', onError)
    socket.once('connect', () => {
      clearTimeout(timer)
      socket.off('error', onError)
      resolve(socket)
    })
  })
}

function prepared(socket: net.Socket, target: Target): net.Socket {
  // Here and not among the options of connect(), which a socket that exists already ignores.
  socket.setNoDelay(true)
  // postgres.js connects anew, at once and for ever, when a server closes before it has let us in; it gives up on an error.
  socket.once('end', () => {
    socket.destroy(Object.assign(new Error('closed by the server'), { code: 'CONNECTION_CLOSED' }))
  })
  // It reads both for its messages, and the host for TLS: the server name and its verification.
  return 'path' in target ? socket : Object.assign(socket, { host: target.host, port: target.port })
}

function invalid(reason: string): OperatorError {
  return new OperatorError('database_url_invalid', `database.url cannot be used: ${reason}.`)
}
