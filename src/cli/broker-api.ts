import type * as z from 'zod'
import { namesLoopback } from '../core/loopback-url.ts'
import { type Bearer, baseOf, findBearer } from './bearer.ts'
import { CommandFailure } from './cli-error.ts'
import type { CommandContext } from './command.ts'
import { splitLines } from './lines.ts'

const timeoutMs = 15_000
/** Of an answer that comes bit by bit. */
const silenceMs = 60_000

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

/** @throws UsageError when URL or token are missing or are none, CommandFailure when a kept session cannot be used. */
export async function openBrokerApi(context: CommandContext): Promise<BrokerApi> {
  return brokerApi(context, await findBearer(context))
}

export function brokerApi(
  { services, output }: Pick<CommandContext, 'services' | 'output'>,
  bearer: Bearer,
): BrokerApi {
  const { base: origin, advice } = bearer
  const base = baseOf(origin)
  if (origin.protocol === 'http:' && !namesLoopback(origin)) {
    output.err('warning: the token travels over plain http.\n')
  }

  async function send(request: ApiRequest): Promise<Response> {
    const token = await bearer.token()
    const response = await sendAs(token, request)
    if (response.ok) return response
    if (response.status === 401) {
      const another = await bearer.insteadOf(token)
      if (another === undefined) throw await failureOf(response, advice)
      const second = await sendAs(another, request)
      if (second.ok) return second
      throw await failureOf(second, advice)
    }
    throw await failureOf(response, advice)
  }

  async function sendAs(
    token: string,
    { method, path, body, signal, headers = {} }: ApiRequest,
  ): Promise<Response> {
    try {
      return await services.fetch(`${base}${path}`, {
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
        signal: signal ?? AbortSignal.timeout(timeoutMs),
      })
    } catch {
      throw new CommandFailure(`No answer from ${origin.origin}. Is the broker running there?`)
    }
  }

  return {
    base,
    get: async (path, answer) => decode(await send({ method: 'GET', path }), answer),
    post: async (path, body, answer) => decode(await send({ method: 'POST', path, body }), answer),
    delete: async (path) => {
      await send({ method: 'DELETE', path })
    },
    lines: (path, headers = {}) =>
      readLines((signal) => send({ method: 'GET', path, signal, headers })),
  }
}

type ApiRequest = {
  readonly method: 'GET' | 'POST' | 'DELETE'
  readonly path: string
  readonly body?: object
  /** Default: of a short while. */
  readonly signal?: AbortSignal
  readonly headers?: Readonly<Record<string, string>>
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
async function failureOf(response: Response, advice: string): Promise<CommandFailure> {
  const { status } = response
  if (status === 401) {
    return new CommandFailure(
      `The broker does not accept the token (401). ${advice}`,
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
