import { OpenAPIHono } from '@hono/zod-openapi'
import { BrokerError } from '../core/errors.ts'
import { createCallers } from './callers.ts'
import { createCookies } from './cookies.ts'
import { createEdge } from './edge.ts'
import { createFailures } from './failures.ts'
import { createGatewayDoors, type GatewayDoors } from './gateway-doors.ts'
import type { HttpApp, HttpEnv } from './http-env.ts'
import { createPageRoutes } from './page-routes.ts'
import { createProblems } from './problem.ts'
import { createRouter } from './router.ts'
import { addActivityRoutes } from './routes/activity.ts'
import { addActivityPage } from './routes/activity-page.ts'
import { addActivityProofRoutes } from './routes/activity-proof.ts'
import { addActivityReportRoutes } from './routes/activity-reports.ts'
import { addActivityStreamRoute } from './routes/activity-stream.ts'
import { addAdministrationRoutes } from './routes/administration.ts'
import { addAssetRoutes } from './routes/assets.ts'
import { addClientDocumentRoute } from './routes/client-document.ts'
import { addConnectRoutes } from './routes/connect.ts'
import { addConnectionPages } from './routes/connection-pages.ts'
import { addConnectionRoutes } from './routes/connections.ts'
import { addExtAuthzRoute } from './routes/ext-authz.ts'
import { addGatewayRoutes } from './routes/gateway.ts'
import { addHealthRoutes } from './routes/health.ts'
import { addMeRoutes } from './routes/me.ts'
import { addMetricsRoute } from './routes/metrics.ts'
import { addOpenApiRoutes } from './routes/openapi.ts'
import { addResolveRoute } from './routes/resolve.ts'
import { addSignInRoutes } from './routes/sign-in.ts'
import { addWellKnownRoutes } from './routes/well-known.ts'
import { createRoutes, methodsAt } from './routing.ts'
import type { HttpServices } from './services.ts'

/**
 * The broker's HTTP application: the order of what a request meets, and which routes there are. Nothing else. The gateway's
 * doors are in it, and beside it for a server that leads there by itself.
 */
export function createApp(services: HttpServices): {
  readonly app: HttpApp
  readonly gatewayDoors: GatewayDoors
} {
  const app = new OpenAPIHono<HttpEnv>({ router: createRouter() })
  const cookies = createCookies(services.publicUrl)
  const problems = createProblems(services)
  const failures = createFailures({ ...services, problems })
  const callers = createCallers({ ...services, cookies })
  const routes = createRoutes(app, callers)
  const pageRoutes = createPageRoutes(app, { ...services, callers, cookies })

  app.onError((error, c) => failures.answer(c, error))
  app.notFound((c) => {
    const allowedMethods = methodsAt(app, c.req.path)
    const known = allowedMethods.length > 0
    const error = known
      ? new BrokerError('method_not_allowed', { allowedMethods })
      : new BrokerError('not_found')
    return failures.answer(c, error)
  })

  // Before the edge, which it does without: see there. So it stands alone in the router, too.
  addResolveRoute(app, services, problems)
  addExtAuthzRoute(app, services, problems)
  const gatewayDoors = createGatewayDoors(services, problems)
  addGatewayRoutes(app, gatewayDoors)

  app.use('*', createEdge({ ...services, methodsAt: (path) => methodsAt(app, path) }))
  addConnectionRoutes(routes, services)
  addAdministrationRoutes(routes, services)
  addMeRoutes(routes)
  // Before the records, whose ids would match their paths.
  addActivityProofRoutes(routes, services)
  addActivityReportRoutes(routes, services)
  addActivityStreamRoute(routes, services)
  addActivityRoutes(routes, services)
  addHealthRoutes(routes, services, problems)
  if (services.metrics !== undefined) addMetricsRoute(routes, services.metrics)
  addWellKnownRoutes(app, services)
  addClientDocumentRoute(app, services)
  addOpenApiRoutes(app, routes, services)
  addSignInRoutes(app, { ...services, callers, cookies })
  addConnectRoutes(app, pageRoutes, { ...services, callers, cookies, failures })
  addConnectionPages(app, pageRoutes, services)
  addActivityPage(pageRoutes, services)
  addAssetRoutes(app, services)
  return { app, gatewayDoors }
}
