import { z } from '@hono/zod-openapi'
import { activityFindingKinds, type ActivityVerdict } from '../../core/ports/activity-proof.ts'
import type { Routes } from '../routing.ts'
import type { HttpServices } from '../services.ts'

const publicKey = z
  .object({
    kty: z.literal('OKP'),
    crv: z.literal('Ed25519'),
    x: z.string(),
    kid: z.string().describe('Its RFC 7638 thumbprint'),
    alg: z.literal('EdDSA'),
    use: z.literal('sig'),
    created_at: z.iso.datetime(),
  })
  .openapi('ActivityPublicKey')

const line = z
  .union([
    z.object({
      kind: z.enum(activityFindingKinds),
      writer: z.string().nullable().describe('Null for a record that claims no writer'),
      seq: z.int().nullable().describe('The first record concerned'),
      through: z.int().nullable().describe('The last one'),
    }),
    z.object({
      ok: z.boolean(),
      records: z.int(),
      writers: z.int(),
      unchained: z.int().describe('Records from before there was a chain'),
      removed: z.int().describe('Records that the retention removed'),
      checkpoints: z.int().describe('Signed checkpoints that the log was compared with'),
    }),
  ])
  .openapi('ActivityVerifyLine')

/** Longer than most checks take, so that their failure is still an answer of its own. */
const startStreamMs = 2000
/** A line may begin with spaces; they keep what is in between from closing the connection. */
const sparkMs = 10_000

/** The proof of the activity log: the keys that its checkpoints are signed with, and a check of all of it. */
export function addActivityProofRoutes(
  routes: Routes,
  { activityProof }: Pick<HttpServices, 'activityProof'>,
): void {
  routes.add(
    {
      method: 'get',
      path: '/api/v1/activity/keys',
      caller: 'activity_reader',
      operation: {
        tag: 'Activity',
        summary: 'Public keys of the checkpoints, old ones too',
        success: {
          status: 200,
          description: 'A JSON Web Key Set (RFC 7517, RFC 8037), oldest first.',
          content: {
            type: 'application/json',
            schema: z.object({ keys: z.array(publicKey) }),
          },
        },
        refusals: [],
      },
    },
    async (c) => {
      const keys = await activityProof.signer.keys()
      return c.json({
        keys: keys.map(({ createdAt, ...key }) => ({
          ...key,
          created_at: createdAt.toISOString(),
        })),
      })
    },
  )

  routes.add(
    {
      method: 'get',
      path: '/api/v1/activity/verify',
      caller: 'activity_reader',
      operation: {
        tag: 'Activity',
        summary: 'Check that nothing was changed, removed or put in',
        description:
          'One JSON object a line: what is wrong, then the result. An answer without its last line was cut off.',
        success: {
          status: 200,
          description: 'What was found.',
          content: { type: 'application/x-ndjson', schema: line },
        },
        refusals: [],
      },
    },
    async (c) => {
      const abort = new AbortController()
      const verdict = activityProof.verifier.verify({ signal: abort.signal })
      let timer: NodeJS.Timeout | undefined
      const late = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, startStreamMs)
      })
      await Promise.race([verdict, late]).finally(() => clearTimeout(timer))
      return c.body(streamed(verdict, abort), 200, { 'content-type': 'application/x-ndjson' })
    },
  )
}

function streamed(
  verdict: Promise<ActivityVerdict>,
  abort: AbortController,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder()
  let spark: NodeJS.Timeout | undefined
  return new ReadableStream({
    async start(controller) {
      spark = setInterval(() => controller.enqueue(encoder.encode(' ')), sparkMs)
      try {
        controller.enqueue(encoder.encode(linesOf(await verdict)))
        controller.close()
      } catch (error) {
        // The caller sees an answer without an end.
        controller.error(error)
      } finally {
        clearInterval(spark)
      }
    },
    cancel() {
      clearInterval(spark)
      abort.abort()
    },
  })
}

function linesOf({ findings, ...counts }: ActivityVerdict): string {
  const lines = [...findings, { ok: findings.length === 0, ...counts }]
  return lines.map((each) => `${JSON.stringify(each)}\n`).join('')
}
