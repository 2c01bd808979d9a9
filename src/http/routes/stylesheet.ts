import type { HttpApp } from '../http-env.ts'
import type { HttpServices } from '../services.ts'

/** The style sheet of the pages, from our own origin. */
export function addStylesheetRoute(app: HttpApp, services: Pick<HttpServices, 'pages'>): void {
  const { path, text } = services.pages.stylesheet
  app.get(path, (c) =>
    c.body(text, 200, {
      'content-type': 'text/css; charset=utf-8',
      'cache-control': 'public, max-age=31536000, immutable',
    }),
  )
}
