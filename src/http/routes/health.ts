import { z } from '@hono/zod-openapi'
import { BrokerError } from '../../core/errors.ts'
import type { Problems } from '../problem.ts'
import type { Routes } from '../routing.ts'
import type { HttpServices } from '../services.ts'

const alive = z.object({ status: z.literal('ok') }).openapi('Alive')

const ready = z
  .object({
    status: z.literal('ready'),
    checks: z.record(z.enum(['database', 'spool', 'keys']), z.enum(['ok', 'failed'])),
  })
  .openapi('Ready')

/** `/healthz`: the process answers. `/readyz`: it can do its work, so a balancer may send callers here. */
export function addHealthRoutes(
  routes: Routes,
  services: Pick<HttpServices, 'readiness'>,
  problems: Problems,
): void {
  routes.add(
    {
      method: 'get',
      path: '/healthz',
      caller: 'anyone',
      operation: {
        tag: 'Operations',
        summary: 'Is the process alive?',
        success: {
          status: 200,
          description: 'It is.',
          content: { type: 'application/json', schema: alive },
        },
        refusals: [],
      },
    },
    (c) => c.json({ status: 'ok' }),
  )

  routes.add(
    {
      method: 'get',
      path: '/readyz',
      caller: 'anyone',
      operation: {
        tag: 'Operations',
        summary: 'Can it do its work?',
        success: {
          status: 200,
          description: 'It can: database, spool and keys.',
          content: { type: 'application/json', schema: ready },
        },
        refusals: ['storage_unavailable', 'audit_unavailable'],
      },
    },
    async (c) => {
      const results = await Promise.all(
        services.readiness.map(async (check) => ({ name: check.name, ok: await check.isReady() })),
      )
      const checks = Object.fromEntries(
        results.map(({ name, ok }) => [name, ok ? 'ok' : 'failed'] as const),
      )
      const failed = results.find(({ ok }) => !ok)
      if (failed === undefined) return c.json({ status: 'ready', checks })
      const code = failed.name === 'spool' ? 'audit_unavailable' : 'storage_unavailable'
      const { problem, headers } = problems.answer(new BrokerError(code), c.get('requestId'))
      return c.json({ ...problem, checks }, problem.status, {
        ...headers,
        'content-type': 'application/problem+json',
      })
    },
  )
}
