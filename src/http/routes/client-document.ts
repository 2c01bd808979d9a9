import { z } from '@hono/zod-openapi'
import { BrokerError } from '../../core/errors.ts'
import type { HttpApp } from '../http-env.ts'
import { describeRoute } from '../routing.ts'
import type { HttpServices } from '../services.ts'

const document = z
  .object({ client_id: z.string(), client_name: z.string(), redirect_uris: z.array(z.string()) })
  .loose()
  .openapi('ClientDocument')

/** OAuth Client ID Metadata Documents: who we are as the client of upstreams' authorization servers. Public, nothing secret in it. */
export function addClientDocumentRoute(
  app: HttpApp,
  services: Pick<HttpServices, 'clientDocuments'>,
): void {
  app.get('/oauth-client/:upstream', (c) => {
    const found = services.clientDocuments.document(c.req.param('upstream'))
    if (found === undefined) throw new BrokerError('not_found')
    return c.json(found, 200, { 'cache-control': 'public, max-age=3600' })
  })
  describeRoute(app, {
    method: 'get',
    path: '/oauth-client/{upstream}',
    caller: 'anyone',
    operation: {
      tag: 'Discovery',
      summary: 'Our own client metadata (Client ID Metadata Document)',
      params: z.object({ upstream: z.string() }),
      success: {
        status: 200,
        description: "Who onbehalf is as a client of this upstream's authorization server.",
        content: { type: 'application/json', schema: document },
      },
      refusals: ['not_found'],
    },
  })
}
