import { Hono } from 'hono'
import { z } from '@hono/zod-openapi'
import { plainProblem } from '../problem.ts'
import type { Routes } from '../routing.ts'
import type { Metrics } from '../services.ts'

/** `GET /metrics` for Prometheus, on the main listener. */
export function addMetricsRoute(routes: Routes, metrics: Metrics): void {
  routes.add(
    {
      method: 'get',
      path: '/metrics',
      caller: 'anyone',
      operation: {
        tag: 'Operations',
        summary: 'Metrics in the text format of Prometheus',
        success: {
          status: 200,
          description: 'Counts and gauges, without a person or a secret in any label.',
          content: { type: 'text/plain', schema: z.string() },
        },
        refusals: [],
      },
    },
    () => metricsAnswer(metrics),
  )
}

/** The whole application of a listener of their own (`listen.metrics`). */
export function createMetricsApp(metrics: Metrics): Hono {
  const app = new Hono()
  app.get('/metrics', () => metricsAnswer(metrics))
  app.notFound(() => plainProblem('not_found'))
  return app
}

async function metricsAnswer(metrics: Metrics): Promise<Response> {
  const headers = { 'content-type': metrics.contentType, 'cache-control': 'no-store' }
  return new Response(await metrics.text(), { headers })
}
