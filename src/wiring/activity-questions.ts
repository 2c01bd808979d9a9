import { type ActivityFeed, createActivityFeed } from '../core/activity-feed.ts'
import type { ActivityReports } from '../core/ports/activity-reports.ts'
import type { ActivityStore } from '../core/ports/activity-store.ts'
import type { Timer } from '../core/ports/timer.ts'
import { createActivityFeedRecords } from '../storage/activity-feed-records.ts'
import { createActivityReports } from '../storage/activity-reports.ts'
import { createActivityStore } from '../storage/activity-store.ts'
import type { Database } from '../storage/database.ts'

/** Everything that can be asked of the activity log. */
export type ActivityQuestions = {
  readonly activity: ActivityStore
  readonly activityReports: ActivityReports
  readonly activityFeed: ActivityFeed
}

/** A record shows in a stream within about a second of reaching the database. */
const pollMs = 1000

export function createActivityQuestions(options: {
  readonly databases: { readonly pages: Database; readonly searches: Database }
  readonly timer: Timer
}): ActivityQuestions {
  const { databases, timer } = options
  return {
    activity: createActivityStore(databases.pages),
    activityReports: createActivityReports(databases.searches),
    activityFeed: createActivityFeed({
      records: createActivityFeedRecords(databases.pages),
      timer,
      pollMs,
    }),
  }
}
