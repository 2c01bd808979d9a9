import type { HttpBindings } from '@hono/node-server'
import type { OpenAPIHono } from '@hono/zod-openapi'
import type { Context } from 'hono'

/** What every handler finds in its context; the bindings are absent where a request did not come over a socket. */
export type HttpEnv = {
  Bindings: Partial<HttpBindings>
  Variables: { requestId: string; startedAt: Date }
}

export type HttpApp = OpenAPIHono<HttpEnv>
export type HttpContext = Context<HttpEnv>
