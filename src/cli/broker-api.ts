import type * as z from 'zod'
import { namesLoopback } from '../core/loopback-url.ts'
import { CommandFailure, UsageError } from './cli-error.ts'
import type { CommandContext, CommandOption } from './command.ts'
import { splitLines } from './lines.ts'

const timeoutMs = 15_000
/** Of an answer that comes bit by bit. */
const silenceMs = 60_000

export const apiOptions: Readonly<Record<string, CommandOption>> = {
  url: { value: 'URL', summary: 'The broker. Default: $ONBEHALF_URL.' },
  token: {
    value: 'TOKEN',
    summary: 'Your access token. Default: $ONBEHALF_TOKEN, which no list of processes shows.',
  },
}

/** The broker's REST API, as the person whose token it is. */
export interface BrokerApi {
  /** Without a slash at its end. */
  readonly base: string
  /** @throws CommandFailure for every answer that is not 2xx or does not fit. */
  get<Answer>(path: string, answer: z.ZodType<Answer>): Promise<Answer>
  post<Answer>(path: string, body: object, answer: z.ZodType<Answer>): Promise<Answer>
  delete(path: string): Promise<void>
  /** The lines of an answer that may take long, as they come. @throws CommandFailure as above, and when nothing comes for a minute. */
  lines(path: string, headers?: Readonly<Record<string, string>>): AsyncIterable<string>
}

/** @throws UsageError when URL or token are missing or are none. */
export function openBrokerApi(context: CommandContext): BrokerApi {
  const origin = readBase(setting(context, 'url', 'ONBEHALF_URL'))
  const base = origin.href.replace(/\/$/, '')
  const token = readToken(setting(context, 'token', 'ONBEHALF_TOKEN'))
  if (origin.protocol === 'http:' && !namesLoopback(origin)) {
    context.output.err('warning: the token travels over plain http.\n')
  }

  async function send(
    method: string,
    path: string,
    body?: object,
    signal = AbortSignal.timeout(timeoutMs),
    headers: Readonly<Record<string, string>> = {},
  ): Promise<Response> {
    let response: Response
    try {
      response = await context.services.fetch(`${base}${path}`, {
        method,
        headers: {
          accept: 'application/json',
          authorization: `Bearer ${token}`,
          ...(body !== undefined && { 'content-type': 'application/json' }),
          ...headers,
        },
        ...(body !== undefined && { body: JSON.stringify(body) }),
        // A redirect would take the token to another address.
        redirect: 'manual',
        signal,
      })
    } catch {
      throw new CommandFailure(`No answer from ${origin.origin}. Is the broker running there?`)
    }
    if (!response.ok) throw await failureOf(response)
    return response
  }

  return {
    base,
    get: async (path, answer) => decode(await send('GET', path), answer),
    post: async (path, body, answer) => decode(await send('POST', path, body), answer),
    delete: async (path) => {
      await send('DELETE', path)
    },
    lines: (path, headers) => readLines((signal) => send('GET', path, undefined, signal, headers)),
  }
}

async function* readLines(
  send: (signal: AbortSignal) => Promise<Response>,
): AsyncGenerator<string> {
  const abort = new AbortController()
  const silence = setTimeout(() => abort.abort(), silenceMs)
  try {
    const { body } = await send(abort.signal)
    yield* splitLines(textOf(body, () => silence.refresh()))
  } catch (error) {
    if (error instanceof CommandFailure) throw error
    throw new CommandFailure('The answer of the broker broke off.')
  } finally {
    clearTimeout(silence)
    abort.abort()
  }
}

async function* textOf(
  body: ReadableStream<Uint8Array> | null,
  onChunk: () => void,
): AsyncGenerator<string> {
  const decoder = new TextDecoder()
  for await (const chunk of body ?? []) {
    onChunk()
    yield decoder.decode(chunk, { stream: true })
  }
}

function setting(
  { options, env }: CommandContext,
  option: string,
  variable: string,
): string | undefined {
  const value = options.value(option) ?? env[variable]
  return value === '' ? undefined : value
}

function readBase(url: string | undefined): URL {
  if (url === undefined) {
    throw new UsageError('Where is the broker? Pass --url URL or set ONBEHALF_URL.')
  }
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

function readToken(token: string | undefined): string {
  if (token === undefined) {
    throw new UsageError('Who are you? Pass --token TOKEN or set ONBEHALF_TOKEN.')
  }
  // Anything else cannot stand in a header, and a line break would end it.
  if (!/^[\x21-\x7e]+$/.test(token)) {
    throw new UsageError('The token must be printable ASCII without spaces or line breaks.')
  }
  return token
}

async function decode<Answer>(response: Response, answer: z.ZodType<Answer>): Promise<Answer> {
  const decoded = answer.safeParse(await readJson(response))
  if (decoded.success) return decoded.data
  throw new CommandFailure('The answer is not one of onbehalf. Is --url the address of the broker?')
}

async function readJson(response: Response): Promise<unknown> {
  try {
    return await response.json()
  } catch {
    return undefined
  }
}

const hints: Readonly<Record<string, string>> = {
  forbidden: 'This needs an admin. `onbehalf activity list --mine` shows your own records.',
  insufficient_scope: 'The token lacks a scope that the broker asks for.',
  not_connectable: 'This upstream needs no connecting: its credentials come without it.',
  not_found: 'There is no such record.',
  policy_denied: 'You may not use this upstream.',
  storage_unavailable: 'The broker cannot reach its database; try again.',
  issuer_unavailable: 'The broker cannot reach your identity provider; try again.',
  unknown_upstream: 'There is no upstream of this name. `onbehalf connections list` shows them.',
}

/** Says what happened in our own words: of the answer only its status and its code are read. */
async function failureOf(response: Response): Promise<CommandFailure> {
  const { status } = response
  if (status === 401) {
    return new CommandFailure(
      'The broker does not accept the token (401). Get a new access token of one of its issuers and set ONBEHALF_TOKEN.',
      'unauthenticated',
    )
  }
  const body = await readJson(response)
  const code = typeof body === 'object' && body !== null && 'code' in body ? body.code : undefined
  if (typeof code !== 'string' || !/^[a-z_]{1,64}$/.test(code)) {
    return new CommandFailure(`The broker answered ${status}.`)
  }
  const hint = Object.hasOwn(hints, code) ? hints[code] : undefined
  return new CommandFailure(
    `The broker answered ${status} ${code}.${hint === undefined ? '' : ` ${hint}`}`,
    code,
  )
}
