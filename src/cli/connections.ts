import * as z from 'zod'
import { type BrokerApi, apiOptions, openBrokerApi } from './broker-api.ts'
import { UsageError } from './cli-error.ts'
import { type Command, exitCodes } from './command.ts'
import { outputOption, readFormat } from './output-format.ts'
import { printable, printableJson, renderTable } from './terminal-text.ts'

const formats = ['table', 'json'] as const

// Only these fields are read, so nothing else that an answer might hold can be printed.
const connection = z.object({
  upstream: z.string(),
  display_name: z.string(),
  mode: z.string(),
  status: z.string(),
  reason: z.string().nullable(),
  scopes: z.array(z.string()),
  audience: z.string().nullable(),
  method: z.string(),
  account: z.string().nullable(),
  expires_at: z.string().nullable(),
  connected_at: z.string().nullable(),
  last_used_at: z.string().nullable(),
  connect_path: z.string().nullable(),
})

const common = { ...apiOptions, ...outputOption(formats) }

export const connectionsList: Command = {
  name: 'connections list',
  summary: 'Show your connections.',
  help: `Shows every upstream that you may use and whether you are connected to it.
Next: \`onbehalf connections connect NAME\` gives a link to connect one that is not.`,
  options: common,
  run: async (context) => {
    const format = readFormat(context, formats)
    const api = openBrokerApi(context)
    const answer = await api.get(
      '/api/v1/connections',
      z.object({ connections: z.array(connection) }),
    )
    const { connections } = answer
    if (format === 'json') context.output.out(`${printableJson(answer)}\n`)
    else if (connections.length === 0) context.output.out('There are no upstreams for you.\n')
    else {
      context.output.out(
        renderTable(
          ['UPSTREAM', 'STATUS', 'REASON', 'ACCOUNT', 'EXPIRES', 'LAST USED'],
          connections.map((row) => [
            row.upstream,
            row.status,
            row.reason,
            row.account,
            row.expires_at,
            row.last_used_at,
          ]),
        ),
      )
    }
    return exitCodes.good
  },
}

export const connectionsConnect: Command = {
  name: 'connections connect',
  positionals: ['<NAME>'],
  summary: 'Get a link that connects you to an upstream.',
  help: `Prints a link to open in your browser. It works once, for 10 minutes, and for you alone: it asks you to
sign in and to confirm, and sends you to the upstream's own consent page.`,
  options: common,
  run: async (context) => {
    const format = readFormat(context, formats)
    const answer = await openBrokerApi(context).post(
      `${pathOf(context.positionals)}/connect`,
      {},
      z.object({ connect_url: z.url({ protocol: /^https?$/ }), expires_at: z.string() }),
    )
    if (format === 'json') context.output.out(`${printableJson(answer)}\n`)
    else {
      context.output.err('Open this link in your browser:\n')
      context.output.out(`${printable(answer.connect_url)}\n`)
    }
    return exitCodes.good
  },
}

export const connectionsDisconnect: Command = {
  name: 'connections disconnect',
  positionals: ['<NAME>'],
  summary: 'Remove your connection to an upstream.',
  help: `Deletes your stored credential for the upstream, and revokes it at its server where that can be done.
It is no error when there was none.`,
  options: apiOptions,
  run: async (context) => {
    const api: BrokerApi = openBrokerApi(context)
    await api.delete(pathOf(context.positionals))
    context.output.out('Disconnected.\n')
    return exitCodes.good
  },
}

/** Names of upstreams are lower case; whatever else was typed stays one segment of the path. */
function pathOf([name = '']: readonly string[]): string {
  // URLs read these as steps up the path, escaped or not.
  if (name === '.' || name === '..') throw new UsageError('<NAME> must be the name of an upstream.')
  return `/api/v1/connections/${encodeURIComponent(name.toLowerCase())}`
}
