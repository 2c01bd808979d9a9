import { OpenAPIHono } from '@hono/zod-openapi'
import { createCallers } from './callers.ts'
import { createCookies } from './cookies.ts'
import { createEdge } from './edge.ts'
import type { HttpApp, HttpEnv } from './http-env.ts'
import { createProblems } from './problem.ts'
import { addMeRoutes } from './routes/me.ts'
import { createRoutes } from './routing.ts'
import type { HttpServices } from './services.ts'

/** The broker's HTTP application: the order of what a request meets, and which routes there are. Nothing else. */
export function createApp(services: HttpServices): HttpApp {
  const app = new OpenAPIHono<HttpEnv>()
  const cookies = createCookies(services.publicUrl)
  const problems = createProblems(services)
  const callers = createCallers({ ...services, cookies })
  const routes = createRoutes(app, callers)

  app.onError((error, c) => problems.respond(error, c.get('requestId')))
  app.use('*', createEdge(services))
  addMeRoutes(routes)
  return app
}
