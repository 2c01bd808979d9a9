import type { ConnectionReason } from './credential.ts'
import type { Secret } from './secret.ts'

/**
 * What a failed request to a token endpoint means for the person.
 *
 * - `retry_at`: passing. `answer` says what is known of the request: `not_sent` provably never left, `complete` got a whole
 *   answer (5xx, 429, a 4xx without a known error), `lost` may have been carried out without our seeing the result.
 * - `reconnect`: the grant is dead; nothing but the person helps.
 * - `misconfigured`: the operator's fault (client, scope, resource); costs nobody a connection.
 * - `denied`: the directory's policy says no.
 * - `subject_token_refused`: an exchange's input was refused; a fresh one may do.
 * - `interaction_required`: consent or another factor is asked for; `claims` is the server's challenge, kept on our side.
 */
export type FailureVerdict =
  | {
      readonly kind: 'retry_at'
      readonly answer: 'not_sent' | 'complete' | 'lost'
      /** As the server asked, already cut to 900. */
      readonly retryAfterSeconds?: number
      /** Not sent because the server's address is one that the configuration does not allow (`allow_private_network`). */
      readonly addressRefused?: true
    }
  | { readonly kind: 'reconnect'; readonly reason: ConnectionReason }
  | { readonly kind: 'misconfigured' }
  | { readonly kind: 'denied' }
  | { readonly kind: 'subject_token_refused' }
  | { readonly kind: 'interaction_required'; readonly claims?: Secret }

/** Thrown by everything that asks a token endpoint. Holds no text of the server's. */
export class AcquisitionFailure extends Error {
  readonly verdict: FailureVerdict

  constructor(verdict: FailureVerdict, options?: { cause?: unknown }) {
    super(`acquisition failed: ${verdict.kind}`, options)
    this.name = 'AcquisitionFailure'
    this.verdict = verdict
  }
}
