import { z } from '@hono/zod-openapi'
import type { Routes } from '../routing.ts'

const me = z
  .object({
    issuer: z.string(),
    user_id: z.string(),
    email: z.string().nullable(),
    admin: z.boolean(),
  })
  .openapi('Me')

export function addMeRoutes(routes: Routes): void {
  routes.add(
    {
      method: 'get',
      path: '/api/v1/me',
      caller: 'person',
      operation: {
        tag: 'Connections',
        summary: 'Who I am',
        success: {
          status: 200,
          description: 'The caller as the broker sees them.',
          content: { type: 'application/json', schema: me },
        },
        refusals: [],
      },
    },
    (c, { person }) =>
      c.json({
        issuer: person.issuer,
        user_id: person.userId,
        email: person.email ?? null,
        admin: person.admin,
      }),
  )
}
