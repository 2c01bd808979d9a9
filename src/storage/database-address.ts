import net from 'node:net'
import { OperatorError } from '../core/operator-error.ts'
import type { Secret } from '../core/secret.ts'

/** What postgres.js is given to reach a database. Holds the password: never print it. */
export type DatabaseAddress = {
  readonly url: string
  /** Host and port, or the socket's directory: for messages. */
  readonly label: string
  /** Overrides what postgres.js would do with the URL; empty where it does well. */
  readonly overrides: {
    /** A placeholder where `socket` connects: postgres.js cannot read an IPv6 address or a directory here. */
    readonly host?: string
    /** Called for every connection; missing in the types of postgres.js. */
    readonly socket?: () => net.Socket
  }
}

/** libpq parameters that postgres.js would send to the server as settings, which refuses them with an unclear error. */
const UNSUPPORTED_PARAMETERS: Readonly<Record<string, string>> = {
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

/**
 * Reads a PostgreSQL URL: TCP by name, IPv4 or IPv6, several hosts, or a unix socket (`?host=/dir`, or the directory
 * percent-encoded as the host). Sockets are opened here where possible, because postgres.js leaves Nagle's algorithm
 * on, which costs a small COPY some 50 ms.
 * @throws OperatorError database_url_invalid; the message never holds the URL.
 */
export function readDatabaseAddress(
  secretUrl: Secret,
  onSocket: (socket: net.Socket) => void,
): DatabaseAddress {
  const url = secretUrl.reveal()
  const authority = /^postgres(?:ql)?:\/\/([^/?#]*)/.exec(url)?.[1]
  if (authority === undefined) {
    throw invalid('it must begin with postgres:// or postgresql://')
  }
  const hosts = authority.slice(authority.lastIndexOf('@') + 1)
  // postgres.js walks through several hosts by itself, and only with sockets of its own.
  if (hosts.includes(',')) return { url, label: hosts, overrides: {} }

  const parsed = parse(url)
  const socketDirectory = socketDirectoryOf(parsed)
  const port = Number(parsed.searchParams.get('port') ?? (parsed.port || 5432))
  parsed.searchParams.delete('host')
  parsed.searchParams.delete('port')
  if (socketDirectory !== undefined) {
    const path = `${socketDirectory}/.s.PGSQL.${port}`
    return {
      url: parsed.href,
      label: path,
      overrides: { host: 'localhost', socket: opener({ path }, onSocket) },
    }
  }
  // URL keeps the brackets of an IPv6 address.
  const host = parsed.hostname.replace(/^\[(.*)\]$/, '$1') || 'localhost'
  return {
    url: parsed.href,
    label: `${parsed.hostname || 'localhost'}:${port}`,
    overrides: { host: 'localhost', socket: opener({ host, port, noDelay: true }, onSocket) },
  }
}

function parse(url: string): URL {
  let parsed: URL
  try {
    parsed = new URL(url)
  } catch {
    // The cause would print the URL with its password.
    throw invalid('it cannot be read; percent-encode special characters of the password')
  }
  for (const name of parsed.searchParams.keys()) {
    const advice = UNSUPPORTED_PARAMETERS[name]
    if (advice !== undefined) throw invalid(`its parameter ${name} is not supported: ${advice}`)
  }
  return parsed
}

function socketDirectoryOf(url: URL): string | undefined {
  const host = url.searchParams.get('host') ?? decodeURIComponent(url.hostname)
  return host.startsWith('/') ? host.replace(/\/+$/, '') : undefined
}

function opener(
  target: net.NetConnectOpts,
  onSocket: (socket: net.Socket) => void,
): () => net.Socket {
  return () => {
    const socket = new net.Socket()
    // postgres.js reads both for its messages and for TLS (server name and its verification).
    Object.assign(socket, 'path' in target ? {} : { host: target.host, port: target.port })
    onSocket(socket)
    // Connecting waits until postgres.js has attached its listeners: an error before that would end the process.
    // It also comes before the first write, which postgres.js makes in an immediate of its own.
    setImmediate(() => {
      if (!socket.destroyed) socket.connect(target)
    })
    return socket
  }
}

function invalid(reason: string): OperatorError {
  return new OperatorError('database_url_invalid', `database.url cannot be used: ${reason}.`)
}
