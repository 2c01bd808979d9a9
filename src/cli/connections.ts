import * as z from 'zod'
import { apiOptions } from './bearer.ts'
import { type BrokerApi, openBrokerApi } from './broker-api.ts'
import { CommandFailure, UsageError } from './cli-error.ts'
import { type Command, type CommandContext, exitCodes } from './command.ts'
import { outputOption, readFormat } from './output-format.ts'
import { printable, printableJson, renderTable } from './terminal-text.ts'

const formats = ['table', 'json'] as const

// Only these fields are read, so nothing else that an answer might hold can be printed.
const connection = z.object({
  upstream: z.string(),
  display_name: z.string(),
  mode: z.string().nullable(),
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

/** As admins see them. */
const administered = connection.extend({
  issuer: z.string(),
  user_id: z.string(),
})

const common = { ...apiOptions, ...outputOption(formats) }

const personOptions = {
  user: { value: 'ID', summary: 'For admins: another person, by their user id.' },
  issuer: {
    value: 'URL',
    summary: 'The issuer of that person, where the id alone does not say.',
  },
} as const

export const connectionsList: Command = {
  name: 'connections list',
  summary: 'Show your connections.',
  help: `Shows every upstream that you may use and whether you are connected to it.
Next: \`onbehalf connections connect NAME\` gives a link to connect one that is not.
With --user it shows what is stored for that person, for admins.`,
  options: { ...common, ...personOptions },
  run: async (context) => {
    const format = readFormat(context, formats)
    const user = readUser(context)
    return user === undefined ? listOwn(context, format) : listOf(context, format, user)
  },
}

type Format = (typeof formats)[number]

async function listOwn(context: CommandContext, format: Format): Promise<number> {
  const answer = await (await openBrokerApi(context)).get(
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
}

type User = { readonly id: string; readonly issuer: string | undefined }

async function listOf(context: CommandContext, format: Format, user: User): Promise<number> {
  const connections = await connectionsOf(await openBrokerApi(context), user)
  if (format === 'json') context.output.out(`${printableJson({ connections })}\n`)
  else if (connections.length === 0) {
    context.output.out('Nothing is stored for this person.\n')
  } else {
    context.output.out(
      renderTable(
        ['ISSUER', 'USER', 'UPSTREAM', 'STATUS', 'REASON', 'ACCOUNT', 'EXPIRES', 'LAST USED'],
        connections.map((row) => [
          row.issuer,
          row.user_id,
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
}

async function connectionsOf(api: BrokerApi, { id, issuer }: User) {
  const { connections } = await api.get(
    `/api/v1/admin/connections?user_id=${encodeURIComponent(id)}`,
    z.object({ connections: z.array(administered) }),
  )
  return connections.filter((row) => issuer === undefined || row.issuer === issuer)
}

function readUser({ options }: CommandContext): User | undefined {
  const id = options.value('user')
  const issuer = options.value('issuer')
  if (id !== undefined) return { id, issuer }
  if (issuer !== undefined) throw new UsageError('--issuer goes with --user ID.')
  return undefined
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
    const api = await openBrokerApi(context)
    const path = pathOf(context.positionals)
    const answer = await api
      .post(
        `${path}/connect`,
        {},
        z.object({ connect_url: z.url({ protocol: /^https?$/ }), expires_at: z.string() }),
      )
      .catch(async (error: unknown) => {
        throw await withAdvice(error, api, path)
      })
    if (format === 'json') context.output.out(`${printableJson(answer)}\n`)
    else {
      context.output.err('Open this link in your browser:\n')
      context.output.out(`${printable(answer.connect_url)}\n`)
    }
    return exitCodes.good
  },
}

/** An upstream that takes a key is not connected by a link, and yet there is something to do. */
async function withAdvice(error: unknown, api: BrokerApi, path: string): Promise<unknown> {
  if (!(error instanceof CommandFailure) || error.code !== 'not_connectable') return error
  const { mode, upstream } = await api.get(path, connection)
  if (mode !== 'user_key') return error
  return new CommandFailure(
    `${printable(upstream)} takes a key of your own instead of a link. Store it at ${api.base}/connections, or send it with PUT ${api.base}${path}/key and the body {"key":"…"}.`,
    error.code,
  )
}

export const connectionsDisconnect: Command = {
  name: 'connections disconnect',
  positionals: ['<NAME>'],
  summary: 'Remove your connection to an upstream.',
  help: `Deletes your stored credential for the upstream, and revokes it at its server where that can be done.
It is no error when there was none. With --user it does so for that person, for admins.`,
  options: { ...apiOptions, ...personOptions },
  run: async (context) => {
    const user = readUser(context)
    const api = await openBrokerApi(context)
    const path = pathOf(context.positionals)
    await api.delete(user === undefined ? path : await adminPathOf(api, user, path))
    context.output.out('Disconnected.\n')
    return exitCodes.good
  },
}

/** The same connection of another person. */
async function adminPathOf(api: BrokerApi, user: User, path: string): Promise<string> {
  const issuer = user.issuer ?? (await onlyIssuerOf(api, user))
  const person = `${encodeURIComponent(issuer)}/${encodeURIComponent(user.id)}`
  return `/api/v1/admin/users/${person}${path.slice('/api/v1'.length)}`
}

async function onlyIssuerOf(api: BrokerApi, user: User): Promise<string> {
  const issuers = new Set((await connectionsOf(api, user)).map(({ issuer }) => issuer))
  const [only] = issuers
  if (only !== undefined && issuers.size === 1) return only
  throw new CommandFailure(
    only === undefined
      ? 'Nothing is stored for a person with this id.'
      : 'People of several issuers have this id. Say which one: --issuer URL.',
  )
}

/** Names of upstreams are lower case; whatever else was typed stays one segment of the path. */
function pathOf([name = '']: readonly string[]): string {
  // URLs read these as steps up the path, escaped or not.
  if (name === '.' || name === '..') throw new UsageError('<NAME> must be the name of an upstream.')
  return `/api/v1/connections/${encodeURIComponent(name.toLowerCase())}`
}
