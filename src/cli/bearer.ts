import { type PersonSession, SignInFailure } from '../oauth/person-sign-in.ts'
import { CommandFailure, UsageError } from './cli-error.ts'
import type { CommandContext, CommandOption } from './command.ts'
import { type SessionFile, sessionFileOf } from './session-file.ts'

export const urlOption: Readonly<Record<string, CommandOption>> = {
  url: { value: 'URL', summary: 'The broker. Default: $ONBEHALF_URL, else where you signed in.' },
}

export const apiOptions: Readonly<Record<string, CommandOption>> = {
  ...urlOption,
  token: {
    value: 'TOKEN',
    summary:
      'Your access token. Better in $ONBEHALF_TOKEN, which no list of processes shows. Default: what `onbehalf login` kept.',
  },
}

/** Who asks which broker. */
export interface Bearer {
  readonly base: URL
  /** Renewed before where it is a kept session's and about to end. @throws CommandFailure */
  token(): Promise<string>
  /** Another one than that which the broker did not accept; undefined where there is none. @throws CommandFailure */
  insteadOf(refused: string): Promise<string | undefined>
  /** What to do when the broker accepts none. */
  readonly advice: string
}

/** A written token goes to a written broker, a kept session to the broker that it was made for. @throws UsageError, CommandFailure */
export async function findBearer(context: CommandContext): Promise<Bearer> {
  const url = brokerUrl(context)
  const token = setting(context, 'token', 'ONBEHALF_TOKEN')
  if (token !== undefined) {
    if (url === undefined) throw nowhere()
    return writtenBearer(url, readToken(token))
  }
  const file = sessionFileOf(context.env)
  const session = await file?.find(url === undefined ? undefined : baseOf(url))
  if (file !== undefined && session !== undefined) return keptBearer(context, file, session)
  if (url === undefined) throw nowhere()
  throw new UsageError(
    'Who are you? Pass --token TOKEN or set ONBEHALF_TOKEN, or sign in: `onbehalf login`.',
  )
}

function nowhere(): UsageError {
  return new UsageError(
    'Where is the broker? Pass --url URL, set ONBEHALF_URL, or sign in: `onbehalf login --url URL`.',
  )
}

function writtenBearer(base: URL, token: string): Bearer {
  return {
    base,
    token: () => Promise.resolve(token),
    insteadOf: () => Promise.resolve(undefined),
    advice: 'Get a new access token of one of its issuers and set ONBEHALF_TOKEN.',
  }
}

/** A session that ends sooner is renewed first. */
const marginMs = 30_000

const signInAgain = 'Sign in again: `onbehalf login`.'

function keptBearer(
  { services }: Pick<CommandContext, 'services'>,
  file: SessionFile,
  found: PersonSession,
): Bearer {
  let session = found

  async function token(): Promise<string> {
    if (isOver(session, marginMs)) {
      try {
        await renew((kept) => isOver(kept, marginMs))
      } catch (error) {
        if (!(error instanceof CommandFailure) || isOver(session, 0)) throw error
      }
    }
    return session.accessToken.reveal()
  }

  async function insteadOf(refused: string): Promise<string | undefined> {
    if (session.refreshToken === undefined) return undefined
    await renew((kept) => kept.accessToken.reveal() === refused)
    return session.accessToken.reveal()
  }

  /** Once over all commands that run: who comes second takes what the first one kept. */
  async function renew(isNeeded: (kept: PersonSession) => boolean): Promise<void> {
    session = await file.renew(session.url, async (kept) => {
      if (kept === undefined || (isNeeded(kept) && kept.refreshToken === undefined)) {
        throw new CommandFailure(`Your session is over. ${signInAgain}`, 'unauthenticated')
      }
      return isNeeded(kept) ? renewed(kept) : kept
    })
  }

  async function renewed(kept: PersonSession): Promise<PersonSession> {
    try {
      return await services.signIns.renew(kept)
    } catch (error) {
      if (!(error instanceof SignInFailure)) throw error
      throw error.fault.kind === 'passing'
        ? new CommandFailure('Your session cannot be renewed for now: its issuer does not answer.')
        : new CommandFailure(`Your session is over. ${signInAgain}`, 'unauthenticated')
    }
  }

  return { base: new URL(session.url), token, insteadOf, advice: signInAgain }
}

function isOver({ expiresAt }: PersonSession, marginMilliseconds: number): boolean {
  return expiresAt !== undefined && expiresAt.getTime() - Date.now() <= marginMilliseconds
}

function setting(
  { options, env }: Pick<CommandContext, 'options' | 'env'>,
  option: string,
  variable: string,
): string | undefined {
  const value = options.value(option) ?? env[variable]
  return value === '' ? undefined : value
}

/** As written; undefined where it is not. @throws UsageError where it is none */
export function brokerUrl(context: Pick<CommandContext, 'options' | 'env'>): URL | undefined {
  const url = setting(context, 'url', 'ONBEHALF_URL')
  if (url === undefined) return undefined
  const base = /^https?:\/\//.test(url) && URL.canParse(url) ? new URL(url) : undefined
  if (
    base === undefined ||
    base.username !== '' ||
    base.password !== '' ||
    base.search !== '' ||
    base.hash !== ''
  ) {
    throw new UsageError(
      '--url must be an http(s) URL such as https://broker.example.com, without user name, query or fragment.',
    )
  }
  return base
}

/** Without a slash at its end. */
export function baseOf(url: URL): string {
  return url.href.replace(/\/$/, '')
}

function readToken(token: string): string {
  // Anything else cannot stand in a header, and a line break would end it.
  if (!/^[\x21-\x7e]+$/.test(token)) {
    throw new UsageError('The token must be printable ASCII without spaces or line breaks.')
  }
  return token
}
