import type { HttpApp } from '../http-env.ts'
import type { HttpServices } from '../services.ts'

/** What the pages load, from our own origin. */
export function addAssetRoutes(app: HttpApp, services: Pick<HttpServices, 'pages'>): void {
  for (const { path, contentType, text } of services.pages.assets) {
    app.get(path, (c) =>
      c.body(text, 200, {
        'content-type': contentType,
        'cache-control': 'public, max-age=31536000, immutable',
      }),
    )
  }
}
