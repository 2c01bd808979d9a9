import { UsageError } from './cli-error.ts'
import type { Command } from './command.ts'

export const demo: Command = {
  name: 'demo',
  summary: 'See everything work on this machine, with no configuration.',
  help: `Starts the broker on its embedded database, a sandbox identity provider with a few people, a sandbox
authorization server and two sandbox MCP upstreams, all on loopback. Runs the main job once before your eyes (connect,
tool call, refresh, exchange, disconnect, records), then stays up and prints what to open and what to try.`,
  options: {
    once: { summary: 'End after the run; exit code 0 only if all of it worked.' },
    port: {
      value: 'PORT',
      summary: 'The port of the broker. Default: 8080, or any free one where that is taken.',
    },
  },
  run: async ({ services, options, output }) =>
    services.demo({ once: options.has('once'), port: readPort(options.value('port')) }, output),
}

function readPort(text: string | undefined): number | undefined {
  if (text === undefined) return undefined
  const port = /^\d{1,5}$/.test(text) ? Number(text) : Number.NaN
  if (port >= 0 && port <= 65_535) return port
  throw new UsageError('--port must be a whole number from 0 to 65535.')
}
