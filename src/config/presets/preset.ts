import type { clientAuthMethods } from '../schema-identity.ts'
import type { RefreshReuse } from '../../core/upstream.ts'

/** What is known about a provider: fills what an upstream's `credential` leaves out. */
export type Preset = {
  /** Used for `oauth_connect` only, and not where `issuer` is written. */
  readonly authorizationEndpoint: string
  readonly tokenEndpoint: string
  /** Absent where the provider has no RFC 7009 endpoint. */
  readonly revocationEndpoint?: string
  readonly clientAuth?: (typeof clientAuthMethods)[number]
  readonly authorizationParameters?: Readonly<Record<string, string>>
  /** Providers that refuse or misread `resource` (RFC 8707). */
  readonly resourceParameter?: 'never'
  readonly refreshReuse?: RefreshReuse
  /** Where in a token answer the token stands, when it is not at the top. */
  readonly tokenAnswerMember?: string
}
