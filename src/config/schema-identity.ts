import * as z from 'zod'
import {
  duration,
  httpUrl,
  id,
  issuerUrl,
  oneOrMany,
  scope,
  secret,
  serviceKey,
  text,
} from './schema-values.ts'

const signatureAlgorithms = [
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
  'ES256',
  'ES384',
  'ES512',
  'EdDSA',
  'HS256',
] as const

export const clientAuthMethods = [
  'client_secret_basic',
  'client_secret_post',
  'private_key_jwt',
  'none',
] as const

/** Our own client at an authorization server, as login, `idp` and upstreams write it. */
export const clientFields = {
  client_secret: secret().optional().describe('The secret of our client.'),
  client_auth: z
    .enum(clientAuthMethods)
    .optional()
    .describe(
      'How our client authenticates. Without a client_secret or private_key the default is none.',
    )
    .meta({ default: 'client_secret_basic' }),
  private_key: secret().optional().describe('For private_key_jwt: a PEM private key.'),
  private_key_id: text().optional().describe('For private_key_jwt: the `kid` to name.'),
}

const introspection = z
  .strictObject({
    endpoint: httpUrl().describe('The introspection endpoint (RFC 7662).'),
    client_id: text(),
    client_secret: secret().meta({ standIn: 'x' }),
    cache: duration()
      .prefault('30s')
      .describe('How long an active answer is used again, never past the end of the token.'),
  })
  .describe('How tokens are asked about at the issuer.')

const issuer = z.strictObject({
  issuer: issuerUrl().describe('The `iss` of its tokens, to the letter.'),
  audience: oneOrMany(text())
    .optional()
    .describe('The audiences of which a token must name one. Default: public_url.'),
  validation: z
    .enum(['jwt', 'introspection', 'jwt_then_introspection'])
    .default('jwt')
    .describe('How its tokens are verified.'),
  jwks_uri: httpUrl().optional().describe('Its keys. Default: discovered from the issuer.'),
  algorithms: z
    .array(z.enum(signatureAlgorithms))
    .min(1, 'must name at least one algorithm')
    .default(['RS256', 'ES256', 'EdDSA'])
    .describe('Accepted signature algorithms. HS256 only together with `secret`.'),
  secret: secret().optional().describe('The shared secret for HS256.'),
  introspection: introspection.optional(),
  required_scopes: z.array(scope()).default([]).describe('Scopes that every token must have.'),
  required_claims: z
    .record(
      text(),
      z.union([text(), z.number(), z.boolean()], {
        error: 'must be text, a number or true or false',
      }),
    )
    .default({})
    .describe('Claims that every access token and every sign-in must have, with their values.'),
  claims: z
    .strictObject({
      user: text().default('sub').describe('The claim that identifies the person.'),
      email: text().default('email'),
      roles: text().default('roles').describe('The claim that lists the roles.'),
    })
    .prefault({})
    .describe('Which claims say who a person is.'),
  allow_private_network: z
    .boolean()
    .default(false)
    .describe('Allows plain http and private addresses for this issuer.'),
  require_at_jwt: z.boolean().default(false).describe('Accept only `typ: at+jwt` (RFC 9068).'),
})

const login = z
  .strictObject({
    issuer: issuerUrl().describe('One of `identity.issuers`.'),
    client_id: text(),
    ...clientFields,
    scopes: z.array(scope()).default(['openid', 'email']),
    store_subject_token: z
      .boolean()
      .default(false)
      .describe('Keep the sign-in token, sealed, as the subject token of exchanges.'),
    session: duration({ atLeast: '1m' })
      .prefault('12h')
      .describe('How long a browser session lives.'),
    allow_private_network: z
      .boolean()
      .optional()
      .describe(
        'Allows plain http and private addresses for the sign-in. Default: that of its issuer.',
      ),
  })
  .describe(
    'Browser sign-in (OpenID Connect) for pages and connect. Redirect URI: {public_url}/login/callback.',
  )

const admins = z.strictObject({
  issuer: issuerUrl().optional().describe("Default: the login's issuer, else the only one."),
  roles: z.array(text()).default(['onbehalf-admin']),
  users: z.array(text()).default([]).describe('Values of `claims.user`.'),
})

const service = z.strictObject({
  id: id().describe('Names the service in records.'),
  key: serviceKey().optional().describe('Its key: 32 characters or more.'),
  keys: z
    .array(serviceKey())
    .min(1, 'must hold at least one key')
    .optional()
    .describe('Several keys, while one is being replaced.'),
  upstreams: z
    .array(text())
    .default(['*'])
    .describe('The upstreams it may ask for, or "*" for all.'),
  max_age: duration({ atMost: '30s' })
    .prefault('0s')
    .describe('For how long it may use a credential again without asking; 30s at most.'),
  may_assert_user: z.boolean().default(false).describe('May name a person without their token.'),
  may_read_activity: z.boolean().default(false).describe('May read the activity log.'),
  may_offboard: z
    .boolean()
    .default(false)
    .describe('May offboard people: end all of their access.'),
})

export const identitySchema = z
  .strictObject({
    issuers: z
      .array(issuer)
      .min(1, 'must hold at least one issuer')
      .describe('Whose access tokens people present.')
      .meta({ standIn: [{ issuer: 'https://stand-in.invalid' }] }),
    share_opaque_tokens: z
      .boolean()
      .default(false)
      .describe(
        'Needed for introspection at more than one issuer, which then sees opaque tokens of the others.',
      ),
    login: login.optional(),
    admins: admins.prefault({}).describe('Whose people are admins.'),
    services: z.array(service).default([]).describe('Proxies that may call resolve and ext-authz.'),
  })
  .describe('Who is calling.')
  .meta({ standIn: { issuers: [{ issuer: 'https://stand-in.invalid' }] } })

export type FileIssuer = z.output<typeof issuer>
export type FileLogin = z.output<typeof login>
export type FileService = z.output<typeof service>
