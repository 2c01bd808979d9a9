import * as z from 'zod'
import { presetNames } from './presets/index.ts'
import { clientFields } from './schema-identity.ts'
import {
  duration,
  httpUrl,
  issuerUrl,
  oneOrMany,
  refreshReuse,
  resourceUri,
  scope,
  text,
} from './schema-values.ts'

/** Known, so that they are refused by their own sentence, and not offered. */
export const laterModes = ['id_jag'] as const

const credentialModes = [
  'oauth_connect',
  'token_exchange',
  'entra_obo',
  'user_key',
  ...laterModes,
] as const

const parameters = z.record(text(), z.string({ error: 'must be text' }))

const framingHeaders = new Set([
  'connection',
  'content-length',
  'expect',
  'host',
  'keep-alive',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
])

const idp = z.strictObject({
  issuer: issuerUrl(),
  client_id: text(),
  ...clientFields,
})

const credential = z
  .strictObject({
    mode: z
      .enum(credentialModes)
      .describe('How a credential comes to be. id_jag is not available yet.')
      .meta({ standIn: 'token_exchange' }),
    preset: z
      .enum(presetNames)
      .optional()
      .describe('Fills what is left out, for a known provider.'),
    issuer: issuerUrl()
      .optional()
      .describe(
        'The authorization server; or name its endpoints. An mcp upstream without client_id names it itself.',
      ),
    authorization_endpoint: httpUrl().optional(),
    token_endpoint: httpUrl().optional(),
    revocation_endpoint: httpUrl().optional().describe('RFC 7009, used at a disconnect.'),
    client_id: text()
      .optional()
      .describe(
        'Our client at the authorization server. Left out on an mcp upstream: we register ourselves.',
      ),
    ...clientFields,
    scopes: z.array(scope()).default([]).describe('The scopes to ask for.'),
    step_up_scopes: z
      .array(scope())
      .default([])
      .describe(
        'Scopes that the upstream may ask for later, where resource does not bind the token to it.',
      ),
    authorization_parameters: parameters
      .default({})
      .describe('Added to the authorization request, such as { access_type: offline }.'),
    token_parameters: parameters.default({}).describe('Added to token requests.'),
    idp: idp.optional().describe('For id_jag: where the assertion comes from. Not available yet.'),
    resource: resourceUri()
      .optional()
      .describe('The RFC 8707 resource. Default where one is sent: the url.'),
    resource_parameter: z
      .enum(['auto', 'always', 'never'])
      .optional()
      .describe('auto: sent for mcp upstreams and wherever `resource` is written.')
      .meta({ default: 'auto' }),
    audience: oneOrMany(text()).optional().describe('RFC 8693 audience, one or several.'),
    subject_token_type: z
      .enum(['access_token', 'id_token', 'jwt'])
      .default('access_token')
      .describe('What kind of token an exchange presents.'),
    refresh_before: duration()
      .prefault('60s')
      .describe('A credential closer to its end than this is refreshed first.'),
    default_lifetime: duration({ atLeast: '1s' })
      .prefault('1h')
      .describe('Assumed when the server names no lifetime and there is a refresh token.'),
    refresh_reuse: refreshReuse()
      .optional()
      .describe(
        'What the server does with a used refresh token: strict (the default), none, or a grace time such as "30s".',
      ),
    header: z
      .string()
      .refine((value) => /^[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}$/.test(value), 'must be a header name')
      .refine(
        (value) => !framingHeaders.has(value.toLowerCase()),
        'must not be a header that frames or routes the request',
      )
      .default('Authorization')
      .describe('The header that carries the credential.'),
    header_format: z
      .string()
      .refine((value) => value.split('{token}').length === 2, 'must hold {token} once')
      .refine(
        (value) => /^[\x20-\x7e]*$/.test(value),
        'must be printable ASCII on one line, because it is a header value',
      )
      .default('Bearer {token}')
      .describe('The value of that header; {token} is the credential.'),
  })
  .describe(
    'How its credentials come to be. An mcp upstream may leave it out: everything is then discovered from its url.',
  )

/** What an mcp upstream without `credential` has. */
export const impliedCredential = credential.parse({ mode: 'oauth_connect' })

const upstream = z.strictObject({
  url: httpUrl().describe('Where the upstream is.'),
  kind: z.enum(['mcp', 'http']).default('mcp'),
  display_name: text()
    .max(100, 'must have 100 characters at most')
    .optional()
    .describe('What people see. Default: the name.'),
  allow: z
    .strictObject({ roles: z.array(text()).default([]), users: z.array(text()).default([]) })
    .prefault({})
    .describe('Who may use it; empty = everybody.'),
  external_url: httpUrl()
    .optional()
    .describe('Where people reach it behind another gateway; also an accepted audience.'),
  credential: credential.optional(),
  allow_private_network: z
    .boolean()
    .default(false)
    .describe('Allows plain http and private addresses, for this upstream only.'),
  timeouts: z
    .strictObject({
      connect: duration({ atLeast: '1s' }).prefault('5s'),
      head: duration({ atLeast: '1s' }).prefault('2m'),
      idle: duration({ atLeast: '1s' }).prefault('10m'),
    })
    .prefault({})
    .describe('Of gateway calls: until connected, until the answer begins, while it is silent.'),
})

export const upstreamsSchema = z
  .record(
    z
      .string()
      .regex(/^[a-z0-9-]{1,63}$/, 'must be a name of 1 to 63 characters out of a-z, 0-9 and -'),
    upstream,
  )
  .prefault({})
  .describe('The servers that receive credentials, by name.')

export type FileUpstream = z.output<typeof upstream>
export type FileCredential = z.output<typeof credential>
