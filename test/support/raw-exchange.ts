import { once } from 'node:events'
import { connect } from 'node:net'

/** Sends bytes over a socket of its own, and gives all that comes back until the server closes, or is silent for `silentMs`. */
export async function rawExchange(
  to: { readonly host: string; readonly port: number },
  bytes: string | Buffer,
  silentMs = 0,
): Promise<Buffer> {
  const socket = connect(to.port, to.host)
  await once(socket, 'connect')
  const chunks: Buffer[] = []
  socket.on('data', (chunk: Buffer) => chunks.push(chunk))
  // A server may reset a connection whose request it did not read to its end; what it said before counts.
  socket.on('error', () => {})
  socket.setTimeout(silentMs, () => socket.destroy())
  socket.write(bytes)
  await new Promise((resolve) => {
    socket.once('close', resolve)
  })
  return Buffer.concat(chunks)
}
