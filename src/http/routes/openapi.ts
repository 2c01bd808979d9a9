import { z } from '@hono/zod-openapi'
import type { ApiDocument, Pages } from '../../core/ports/pages.ts'
import { cookieNames } from '../cookies.ts'
import type { HttpApp } from '../http-env.ts'
import { pageAnswer } from '../page-answer.ts'
import { problems } from '../problem.ts'
import type { Routes } from '../routing.ts'

/** `/openapi.json`, and `/docs`, which is the same for people. Both are built once, at their first request. */
export function addOpenApiRoutes(
  app: HttpApp,
  routes: Routes,
  services: { readonly publicUrl: string; readonly version: string; readonly pages: Pages },
): void {
  let document: ReturnType<HttpApp['getOpenAPI31Document']> | undefined
  let reference: Promise<string> | undefined

  const buildDocument = () => {
    document ??= app.getOpenAPI31Document({
      openapi: '3.1.0',
      info: {
        title: 'onbehalf',
        version: services.version,
        description:
          'Every tool call gets the credential of the person behind it. Errors are `application/problem+json`.',
      },
      servers: [{ url: services.publicUrl }],
    })
    return document
  }

  app.openAPIRegistry.registerComponent('securitySchemes', 'personToken', {
    type: 'http',
    scheme: 'bearer',
    description: "A person's access token from a configured issuer.",
  })
  app.openAPIRegistry.registerComponent('securitySchemes', 'serviceKey', {
    type: 'http',
    scheme: 'bearer',
    description: 'The key of a configured service.',
  })
  app.openAPIRegistry.registerComponent('securitySchemes', 'session', {
    type: 'apiKey',
    in: 'cookie',
    name: cookieNames(services.publicUrl).session,
    description:
      'The cookie of a browser sign-in. Writes also need our own `Origin` and `X-Onbehalf-CSRF: 1`.',
  })

  routes.add(
    {
      method: 'get',
      path: '/openapi.json',
      caller: 'anyone',
      operation: {
        tag: 'Discovery',
        summary: 'This document (OpenAPI 3.1)',
        success: {
          status: 200,
          description: 'The document.',
          content: { type: 'application/json', schema: z.object({}).loose() },
        },
        refusals: [],
      },
    },
    (c) => c.json(buildDocument(), 200, { 'cache-control': 'public, max-age=300' }),
  )

  app.get('/docs', async (c) => {
    reference ??= services.pages.reference({
      // What we generated ourselves is of this form; the generator's own type also allows what we never write.
      document: buildDocument() as object as ApiDocument,
      problems: Object.entries(problems).map(([code, of]) => ({ code, ...of })),
    })
    return pageAnswer(c, await reference)
  })
}
