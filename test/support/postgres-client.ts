import postgres from 'postgres'
import { Secret } from '../../src/core/secret.ts'
import { readDatabaseAddress } from '../../src/storage/database-address.ts'

/** postgres.js itself, beside our own pools: to look at rows, and to disturb. End it when done. */
export function connectTo(url: string, max = 2): postgres.Sql {
  // It does not read the directory of a unix socket from a URL.
  const address = readDatabaseAddress(new Secret(url), () => {})
  const options = { max, socket: address.socket, onnotice() {} }
  return postgres(address.url, options)
}

/** The URL of another database on the same server. */
export function databaseUrl(serverUrl: string, name: string): string {
  const url = new URL(serverUrl)
  url.pathname = `/${name}`
  return url.href
}
