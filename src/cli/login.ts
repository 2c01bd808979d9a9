import * as z from 'zod'
import { isScopeToken } from '../core/scope-token.ts'
import { type PersonSession, type SignInFault, SignInFailure } from '../oauth/person-sign-in.ts'
import { baseOf, brokerUrl, urlOption } from './bearer.ts'
import { brokerApi } from './broker-api.ts'
import { CommandFailure, UsageError } from './cli-error.ts'
import { type Command, type CommandContext, exitCodes } from './command.ts'
import { faultTexts } from './fault-texts.ts'
import { type BrowserAnswer, listenOnLoopback } from './loopback-listener.ts'
import { allowsPrivateNetwork, privateNetworkOption } from './server-url.ts'
import { type SessionFile, sessionFileOf } from './session-file.ts'
import { printable } from './terminal-text.ts'

const signInWithinMs = 5 * 60_000

const me = z.object({
  issuer: z.string(),
  user_id: z.string(),
  email: z.string().nullable(),
  admin: z.boolean(),
})

export const login: Command = {
  name: 'login',
  summary: 'Sign in by browser, for these commands.',
  help: `Prints a link to sign in with, and opens it where there is a screen. You sign in at an issuer that the broker names; the
answer comes back to a port of this machine. The session is kept in onbehalf/sessions.json under $XDG_CONFIG_HOME or
~/.config, readable by you alone, one a broker; it is renewed where the issuer allows it. Remove the file to forget them.
\`connections\` and \`activity\` use it from then on, where no token is passed; without --url they ask the broker
that you signed in at last.

The issuer must know this program. Where it takes registrations (RFC 7591) nothing is needed. Elsewhere register a
public client (native, code with PKCE) with the redirect URI http://127.0.0.1/callback, and pass --client-id. Its
access tokens must be ones that the broker accepts: of its audience, and with the scopes that it needs.
Next: \`onbehalf connections list\`.`,
  options: {
    ...urlOption,
    issuer: { value: 'URL', summary: 'Where to sign in, if the broker names several issuers.' },
    'client-id': { value: 'ID', summary: 'A public client at the issuer.' },
    scope: {
      value: 'SCOPE',
      repeatable: true,
      summary: 'Ask for these alone. Default: what the broker names, and offline_access.',
    },
    'no-resource': {
      summary:
        'Leave `resource` out, for issuers that refuse it, such as Entra; --scope says it there.',
    },
    port: {
      value: 'NUMBER',
      summary: 'Where the answer comes back, if the issuer wants to know the port. Default: any.',
    },
    ...privateNetworkOption,
  },
  run: async (context) => {
    const port = readPort(context)
    const file = sessionFileOf(context.env)
    if (file === undefined) {
      throw new UsageError('Where is your home? Set HOME, or XDG_CONFIG_HOME.')
    }
    const url = brokerUrl(context) ?? (await lastBroker(file))
    const listener = await listenOnLoopback(port)
    try {
      const begun = await context.services.signIns
        .begin({
          url: baseOf(url),
          allowPrivateNetwork: allowsPrivateNetwork(context, url),
          redirectUri: listener.redirectUri,
          issuer: context.options.value('issuer'),
          clientId: context.options.value('client-id'),
          scopes: readScopes(context),
          sendsResource: !context.options.has('no-resource'),
        })
        .catch(explain(listener.redirectUri))
      const coming = listener.answer(begun.state, signInWithinMs)
      sendToBrowser(context, begun.authorizationUrl)
      const answer = await coming
      const session = await orShow(answer, async () => {
        const made = await begun.finish(answer.parameters).catch(explain(listener.redirectUri))
        await introduce(context, made)
        await file.keep(made)
        return made
      })
      context.output.err(
        `Kept in ${printable(file.path)}${session.refreshToken === undefined ? ', until the token ends: it cannot be renewed' : ''}.\n`,
      )
      return exitCodes.good
    } finally {
      listener.close()
    }
  },
}

async function lastBroker(file: SessionFile): Promise<URL> {
  const last = await file.find(undefined)
  if (last === undefined) {
    throw new UsageError('Where is the broker? Pass --url URL or set ONBEHALF_URL.')
  }
  return new URL(last.url)
}

function readPort({ options }: CommandContext): number {
  const value = options.value('port')
  if (value === undefined) return 0
  const port = /^\d{1,5}$/.test(value) ? Number(value) : 0
  if (port >= 1 && port <= 65_535) return port
  throw new UsageError('--port must be a whole number from 1 to 65535.')
}

function readScopes({ options }: CommandContext): readonly string[] | undefined {
  if (!options.has('scope')) return undefined
  const scopes = options.values('scope').flatMap((value) => value.split(/[ ,]+/))
  if (scopes.every(isScopeToken)) return scopes
  throw new UsageError('--scope must be one or more scopes, such as "openid offline_access".')
}

function sendToBrowser({ output, services }: CommandContext, url: URL): void {
  output.err('Open this link in your browser within five minutes to sign in:\n')
  output.out(`${printable(url.href)}\n`)
  // Whoever reads this from a pipe has a browser of their own.
  if (output.isWatched && services.openBrowser(url)) output.err('It was opened for you.\n')
}

async function orShow<Result>(answer: BrowserAnswer, work: () => Promise<Result>): Promise<Result> {
  let worked = false
  try {
    const result = await work()
    worked = true
    return result
  } finally {
    await answer.show(worked)
  }
}

/** A session that the broker does not accept is not worth keeping. @throws CommandFailure */
async function introduce(context: CommandContext, session: PersonSession): Promise<void> {
  const api = brokerApi(context, {
    base: new URL(session.url),
    token: () => Promise.resolve(session.accessToken.reveal()),
    insteadOf: () => Promise.resolve(undefined),
    advice:
      'Its issuer gave one that is not for this broker: see the audience, required_scopes and required_claims of the issuer in its configuration.',
  })
  const person = await api.get('/api/v1/me', me)
  const name = person.email === null ? person.user_id : `${person.email} (${person.user_id})`
  const role = person.admin ? ', an admin' : ''
  context.output.out(`Signed in at ${printable(session.url)} as ${printable(name)}${role}.\n`)
}

function explain(redirectUri: string): (error: unknown) => never {
  return (error) => {
    if (!(error instanceof SignInFailure)) throw error
    throw new CommandFailure(sentence(error.fault, error.issuer ?? 'the issuer', redirectUri))
  }
}

function sentence(fault: SignInFault, issuer: string, redirectUri: string): string {
  const at = printable(issuer)
  switch (fault.kind) {
    case 'broker_document':
      return `The broker's document (/.well-known/oauth-protected-resource) ${faultTexts[fault.fault]}. Is --url its public_url?${hintOn(fault.fault)}`
    case 'server_document':
      return `The document of ${at} ${faultTexts[fault.fault]}.${hintOn(fault.fault)}`
    case 'registration':
      return `Nothing could be registered at ${at}: it ${faultTexts[fault.fault]}. Register a public client with the redirect URI ${redirectUri}, and pass --client-id.${hintOn(fault.fault)}`
    case 'which_issuer':
      return `Say which issuer to sign in at. The broker takes these: --issuer ${fault.issuers.map(printable).join(', --issuer ')}`
    case 'no_client':
      return `${at} takes no registrations. Register a public client there with the redirect URI http://127.0.0.1/callback (with a port, if it has to be, and --port), and pass --client-id.`
    case 'denied':
      return `${at} did not sign you in.`
    case 'answer_refused':
      return `The answer is not one of ${at} to this sign-in. Nothing was sent there.`
    case 'token_refused':
      return `${at} signed you in, and then gave no token. Does it know the client as a public one, with the redirect URI ${redirectUri}?`
    case 'passing':
      return `${at} cannot be reached. Try again.`
  }
}

function hintOn(fault: string): string {
  return fault === 'address_refused'
    ? ' --allow-private-network would allow private addresses and plain http.'
    : ''
}
