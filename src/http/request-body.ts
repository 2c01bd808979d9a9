import type { z } from '@hono/zod-openapi'
import { BrokerError } from '../core/errors.ts'
import type { HttpContext } from './http-env.ts'

const largestBodyBytes = 64 * 1024

/**
 * Reads a JSON body of at most 64 KiB and checks it against a strict schema. The media type is not looked at: what protects
 * against other sites is the CSRF header, and `curl -d` is welcome. An absent body is `whenEmpty`, where that is given.
 * @throws BrokerError invalid_request naming the field.
 */
export async function readJson<Schema extends z.ZodType>(
  c: HttpContext,
  schema: Schema,
  whenEmpty?: unknown,
): Promise<z.output<Schema>> {
  const text = await readText(c)
  if (text === '' && whenEmpty !== undefined) return parseFields(schema, whenEmpty)
  return parseFields(schema, parseJson(text))
}

/** Reads an HTML form as it is sent without JavaScript. @throws BrokerError invalid_request */
export async function readForm(c: HttpContext): Promise<URLSearchParams> {
  return new URLSearchParams(await readText(c))
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    // Without its cause: the parser's message quotes the body.
    throw new BrokerError('invalid_request', {
      field: 'body',
      expectation: 'The body is to be JSON.',
    })
  }
}

/** @throws BrokerError invalid_request naming the first field at fault. */
export function parseFields<Schema extends z.ZodType>(
  schema: Schema,
  value: unknown,
): z.output<Schema> {
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const issue = result.error.issues[0]
  if (issue?.code === 'unrecognized_keys') {
    const path = [...issue.path, issue.keys[0] ?? '']
    throw invalidField(path, 'There is no such field.')
  }
  throw invalidField(issue?.path ?? [], 'The field is missing, of another type, or out of bounds.')
}

const fieldName = /^[A-Za-z]\w{0,39}$/

/** Names a field by its path. A name of the caller's own making appears only where it looks like a name. */
function invalidField(path: readonly PropertyKey[], expectation: string): BrokerError {
  const names = path.map(String)
  const readable = names.length > 0 && names.every((name) => fieldName.test(name))
  return new BrokerError('invalid_request', {
    field: readable ? names.join('.') : 'body',
    expectation,
  })
}

async function readText(c: HttpContext): Promise<string> {
  const length = c.req.header('content-length')
  // Node has checked the announced length against the body, so this is the quick way for nearly every request.
  if (length !== undefined && Number(length) > largestBodyBytes) throw tooLarge()
  try {
    return await (length === undefined ? readStream(c.req.raw.body) : c.req.raw.text())
  } catch (error) {
    if (error instanceof BrokerError) throw error
    // The sender went away in the middle; nobody is there to read the answer.
    throw new BrokerError('invalid_request', { field: 'body', cause: error })
  }
}

async function readStream(body: ReadableStream<Uint8Array> | null): Promise<string> {
  if (body === null) return ''
  const chunks: Uint8Array[] = []
  let size = 0
  const reader = body.getReader()
  for (;;) {
    const { done, value } = await reader.read()
    if (done) return new TextDecoder().decode(Buffer.concat(chunks))
    size += value.byteLength
    if (size > largestBodyBytes) {
      // Not awaited: a sender that never ends must not keep the answer.
      reader.cancel().catch(() => undefined)
      throw tooLarge()
    }
    chunks.push(value)
  }
}

function tooLarge(): BrokerError {
  return new BrokerError('invalid_request', {
    field: 'body',
    expectation: 'The body may have 64 KiB.',
  })
}
