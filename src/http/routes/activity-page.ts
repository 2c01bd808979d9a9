import { BrokerError } from '../../core/errors.ts'
import type { ActivityPage } from '../../core/ports/activity-store.ts'
import { encodeActivityCursor } from '../activity-cursor.ts'
import { type ActivityQuery, parseActivityQuery } from '../activity-query.ts'
import { pageAnswer } from '../page-answer.ts'
import type { PageRoutes } from '../page-routes.ts'
import type { HttpServices } from '../services.ts'

/** The activity log as a page, for admins: the same query as the API's. */
export function addActivityPage(
  pageRoutes: PageRoutes,
  services: Pick<HttpServices, 'activity' | 'pages'>,
): void {
  const { activity, pages } = services

  pageRoutes.get('/activity', async (c, { session, viewer }) => {
    if (!session.person.admin) {
      throw new BrokerError('forbidden', { expectation: 'Only admins may read the activity log.' })
    }
    const params = filledIn(new URL(c.req.url).searchParams)
    const query = parsed(params)
    if ('refusedField' in query) {
      const { refusedField } = query
      const nothing = { records: [], filter: {}, nextQuery: undefined, exportQuery: undefined }
      const page = await pages.activity({ viewer, ...nothing, refusedField })
      return pageAnswer(c, page, { status: 400 })
    }
    const { filter, limit, after } = query
    const found = await activity.page(filter, limit, after)
    const page = await pages.activity({
      viewer,
      filter,
      records: found.records,
      nextQuery: nextQuery(params, found),
      exportQuery: exportQuery(params),
      refusedField: undefined,
    })
    return pageAnswer(c, page)
  })
}

/** A form sends every field, the empty ones too. */
function filledIn(params: URLSearchParams): URLSearchParams {
  return new URLSearchParams([...params].filter(([, value]) => value !== ''))
}

function parsed(params: URLSearchParams): ActivityQuery | { readonly refusedField: string } {
  try {
    return parseActivityQuery(params)
  } catch (error) {
    if (!(error instanceof BrokerError)) throw error
    return { refusedField: error.details.field ?? 'query' }
  }
}

function nextQuery(params: URLSearchParams, { next }: ActivityPage): string | undefined {
  if (next === undefined) return undefined
  const query = new URLSearchParams(params)
  query.set('cursor', encodeActivityCursor(next))
  return query.toString()
}

/** All that fits, wherever in it this page is. */
function exportQuery(params: URLSearchParams): string {
  const query = new URLSearchParams(params)
  query.delete('cursor')
  query.delete('limit')
  query.set('format', 'csv')
  return query.toString()
}
