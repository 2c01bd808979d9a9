import * as z from 'zod'
import { identitySchema } from './schema-identity.ts'
import { upstreamsSchema } from './schema-upstream.ts'
import {
  duration,
  encryptionSecret,
  httpUrl,
  id,
  origin,
  secret,
  size,
  text,
} from './schema-values.ts'

const port = (least: number) =>
  z
    .int()
    .min(least, `must be a whole number from ${least} to 65535`)
    .max(65_535, `must be a whole number from ${least} to 65535`)

const listen = z
  .strictObject({
    host: text().default('127.0.0.1').describe('The address to listen on.'),
    port: port(0).default(8080).describe('0 = any free one.'),
    metrics: z
      .strictObject({
        host: text().default('127.0.0.1'),
        port: port(0).meta({ standIn: 0 }),
      })
      .optional()
      .describe('Moves /metrics to an address of its own.'),
  })
  .prefault({})
  .describe('Where the service listens.')

const database = z
  .strictObject({
    url: z
      .string()
      .refine((value) => /^postgres(ql)?:\/\/\S+$/.test(value), 'must be a postgres:// URL')
      .pipe(secret())
      .optional()
      .describe('PostgreSQL 15 or newer. Left out: the embedded database.'),
    pool: z
      .int()
      .min(1, 'must be a whole number from 1 to 1000')
      .max(1000, 'must be a whole number from 1 to 1000')
      .default(10)
      .describe('Connections at most.'),
  })
  .prefault({})

const encryptionKey = z.strictObject({
  id: id().describe('Names the key in sealed rows; never used again for another key.'),
  secret: encryptionSecret().describe('Base64 of 32 bytes: `onbehalf keys generate`.'),
})

const encryption = z
  .strictObject({
    keys: z
      .array(encryptionKey)
      .min(1, 'must hold at least one key: `onbehalf keys generate` makes one')
      .describe('The first seals, all of them open.')
      .meta({ standIn: [{ id: 'x', secret: `${'A'.repeat(43)}=` }] }),
  })
  .describe('The keys that seal every stored credential.')
  .meta({ standIn: { keys: [{ id: 'x', secret: `${'A'.repeat(43)}=` }] } })

const audit = z
  .strictObject({
    durability: z
      .enum(['process', 'disk'])
      .default('process')
      .describe(
        'process: a record survives the end of the process. disk: a power cut too; each call waits for the disk.',
      ),
    when_full: z
      .enum(['refuse', 'drop'])
      .default('refuse')
      .describe('What happens to calls whose record cannot be taken.'),
    retention: duration({ atLeast: '1d' })
      .refine((seconds) => seconds % 86_400 === 0, 'must be whole days, such as "90d"')
      .prefault('90d')
      .describe('How long records are kept; whole weeks are dropped.'),
    spool_limit: size()
      .prefault('1GiB')
      .describe('Per process: of records that are not in the database yet, 1MiB or more.'),
    destinations: z
      .array(
        z.strictObject({
          kind: z.enum(['webhook', 'otlp']).meta({ standIn: 'webhook' }),
          url: httpUrl(),
          secret: secret()
            .optional()
            .describe('Signs what is sent (webhook), or is sent as a bearer token (otlp).'),
          allow_private_network: z
            .boolean()
            .default(false)
            .describe('Allows http and private addresses.'),
        }),
      )
      .default([])
      .describe('Where records are sent besides the table.'),
  })
  .prefault({})
  .describe('The activity log.')

const authorizationServer = z
  .strictObject({
    enabled: z.boolean().default(false),
    clients: z.array(z.record(z.string(), z.unknown())).default([]),
    registration: z
      .strictObject({
        cimd: z.boolean().default(true),
        dcr: z
          .strictObject({
            enabled: z.boolean().default(false),
            initial_access_token: secret().optional(),
            allowed_redirect_hosts: z.array(text()).optional(),
          })
          .prefault({}),
      })
      .prefault({}),
    access_token_ttl: duration({ atLeast: '1s' }).prefault('10m'),
    refresh_token_ttl: duration({ atLeast: '1s' }).prefault('30d'),
    signing: z.enum(['ES256', 'RS256', 'EdDSA']).default('ES256'),
  })
  .prefault({})
  .describe('An authorization server for MCP clients. Not available yet.')

/** The whole configuration file after expansion (docs/configuration.md). Checks over several fields stand in `build-config.ts`. */
export const configFileSchema = z.strictObject({
  public_url: origin().describe(
    'The origin under which people and clients reach the broker: the only source of issuer, audience, redirect and cookie scope.',
  ),
  listen,
  data_dir: text()
    .default('./.onbehalf')
    .describe(
      "Of the embedded database, the activity spool and the refresh journal. A relative path starts at the file's directory.",
    ),
  database,
  encryption,
  identity: identitySchema,
  upstreams: upstreamsSchema,
  return_to: z
    .array(origin())
    .default([])
    .describe('Origins that connect may send a person back to, besides public_url.'),
  allowed_origins: z
    .array(origin())
    .default([])
    .describe('Origins whose pages may call the gateway from a browser, besides public_url.'),
  audit,
  authorization_server: authorizationServer,
})

export type ConfigFile = z.output<typeof configFileSchema>
