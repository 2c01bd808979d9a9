import { hash } from 'node:crypto'
import type { PersonId } from '../../core/caller.ts'
import { isBrokerError } from '../../core/errors.ts'
import type { Clock } from '../../core/ports/clock.ts'
import type { Sealer } from '../../core/ports/sealer.ts'
import { Secret } from '../../core/secret.ts'
import { isObject, type JsonObject, type McpMessage } from './json-rpc.ts'
import { canonicalJson } from './json-text.ts'

/** The member of `inputResponses` that answers our connect prompt. */
export const promptName = 'onbehalf_connect'

const prefix = 'onbehalf.'
const validMs = 10 * 60_000

/**
 * What a client carries from our connect prompt to its retry. It is sealed for the person and upstream, and says which call it is
 * for and until when: a client, or whoever gave it to one, could otherwise make it stand for another call.
 */
export type RequestStates = {
  /** `replaces`: when the connection began that is not enough for this call. */
  readonly issue: (
    person: PersonId,
    upstream: string,
    message: McpMessage,
    replaces: Date | undefined,
  ) => string
  readonly judge: (person: PersonId, upstream: string, message: McpMessage) => JudgedState
}

/**
 * `ours`: fits this very call. `misfit`: written like ours and does not fit; never to be sent on. `foreign`: the upstream's, or
 * there is none.
 */
export type JudgedState =
  | { readonly kind: 'ours'; readonly replaces: Date | undefined }
  | { readonly kind: 'misfit' | 'foreign' }

export function createRequestStates(ports: {
  readonly sealer: Sealer
  readonly clock: Clock
}): RequestStates {
  const { sealer, clock } = ports

  const contextOf = ({ issuer, userId }: PersonId, upstream: string) =>
    ({ table: 'mcp_request_state', field: 'state', issuer, userId, upstream }) as const

  function judgeSealed(
    sealed: string,
    person: PersonId,
    upstream: string,
    message: McpMessage,
  ): JudgedState {
    try {
      const bytes = Buffer.from(sealed, 'base64url')
      const text = sealer.open(bytes, contextOf(person, upstream)).reveal()
      const [untilMs, digest, replacesMs] = text.split(' ')
      const fits = Number(untilMs) > clock.now().getTime() && digest === digestOf(message)
      if (!fits) return { kind: 'misfit' }
      const replaces = replacesMs === 'none' ? undefined : new Date(Number(replacesMs))
      return { kind: 'ours', replaces }
    } catch (error) {
      if (isBrokerError(error, 'credential_corrupt')) return { kind: 'misfit' }
      throw error
    }
  }

  return {
    issue(person, upstream, message, replaces) {
      const untilMs = clock.now().getTime() + validMs
      const text = new Secret(`${untilMs} ${digestOf(message)} ${replaces?.getTime() ?? 'none'}`)
      return `${prefix}${sealer.seal(text, contextOf(person, upstream)).toString('base64url')}`
    },
    judge(person, upstream, message) {
      const state = message.params['requestState']
      if (typeof state !== 'string' || !state.startsWith(prefix)) return { kind: 'foreign' }
      return judgeSealed(state.slice(prefix.length), person, upstream, message)
    },
  }
}

/** What the person answered to our prompt. */
export function promptAnswer(message: McpMessage): 'accept' | 'decline' | 'cancel' | undefined {
  const responses = message.params['inputResponses']
  const own = isObject(responses) ? responses[promptName] : undefined
  const action = isObject(own) ? own['action'] : undefined
  return action === 'accept' || action === 'decline' || action === 'cancel' ? action : undefined
}

/** The call as it was before our prompt: without our state and our entry of the answers. */
export function withoutPrompt({ source }: McpMessage): JsonObject {
  const { requestState: _state, inputResponses, ...params } = paramsIn(source)
  const others = isObject(inputResponses)
    ? Object.fromEntries(Object.entries(inputResponses).filter(([name]) => name !== promptName))
    : {}
  const kept = Object.keys(others).length === 0 ? params : { ...params, inputResponses: others }
  return { ...source, params: kept }
}

/** Of the method and everything that makes the call what it is; ids and `_meta` differ between tries. */
function digestOf({ method, source }: McpMessage): string {
  const { _meta, requestState: _state, inputResponses: _answers, ...call } = paramsIn(source)
  return hash('sha256', `${method}\n${canonicalJson(call)}`, 'base64url')
}

function paramsIn({ params }: JsonObject): JsonObject {
  return isObject(params) ? params : {}
}
