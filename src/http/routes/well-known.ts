import { z } from '@hono/zod-openapi'
import { BrokerError } from '../../core/errors.ts'
import type { HttpApp, HttpContext } from '../http-env.ts'
import { describeRoute } from '../routing.ts'
import type { HttpServices } from '../services.ts'

const base = '/.well-known/oauth-protected-resource'

const metadata = z
  .object({ resource: z.string(), authorization_servers: z.array(z.string()) })
  .loose()
  .openapi('ProtectedResourceMetadata')

/** RFC 9728 documents: public, for browsers' clients too, and the same for everybody. */
export function addWellKnownRoutes(
  app: HttpApp,
  services: Pick<HttpServices, 'protectedResources'>,
): void {
  const answer = (c: HttpContext): Response => {
    const document = services.protectedResources.document(c.req.path.slice(base.length))
    if (document === undefined) throw new BrokerError('not_found')
    return c.json(document, 200, { 'cache-control': 'public, max-age=300' })
  }
  // Clients in a browser send MCP-Protocol-Version along, which makes the browser ask first.
  const preflight = (c: HttpContext): Response =>
    c.body(null, 204, {
      'access-control-allow-methods': 'GET, HEAD',
      'access-control-allow-headers': '*',
      'access-control-max-age': '86400',
    })

  // Refusals too: a client in a browser looks in several places, and could not tell a 404 from a dead server otherwise.
  app.use(`${base}/*`, async (c, next) => {
    await next()
    c.res.headers.set('access-control-allow-origin', '*')
    c.res.headers.set('cross-origin-resource-policy', 'cross-origin')
  })
  for (const path of [base, `${base}/:path{.+}`]) {
    app.get(path, answer)
    app.options(path, preflight)
  }
  for (const path of [base, `${base}/{path}`]) {
    describeRoute(app, {
      method: 'get',
      path,
      caller: 'anyone',
      operation: {
        tag: 'Discovery',
        summary: 'Protected resource metadata (RFC 9728)',
        ...(path === base ? {} : { params: z.object({ path: z.string() }) }),
        success: {
          status: 200,
          description: 'Which authorization servers issue tokens for this resource.',
          content: { type: 'application/json', schema: metadata },
        },
        refusals: path === base ? [] : ['not_found'],
      },
    })
  }
}
