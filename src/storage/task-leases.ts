import { randomUUID } from 'node:crypto'
import type { TaskLeases } from '../core/ports/task-leases.ts'
import type { Database } from './database.ts'

/** Leases that end by the database's clock. They belong to this instance: make one a process. */
export function createTaskLeases({ run, sql }: Database): TaskLeases {
  const owner = randomUUID()
  return {
    async hold(task, forMs) {
      const held = await run(
        () => sql`
          INSERT INTO task_lease AS lease (name, owner, leased_until)
          VALUES (${task}, ${owner}, now() + ${forMs} * interval '1 millisecond')
          ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, leased_until = excluded.leased_until
            WHERE lease.owner = excluded.owner OR lease.leased_until < now()`,
      )
      return held.count > 0
    },

    async release(task) {
      await run(() => sql`DELETE FROM task_lease WHERE name = ${task} AND owner = ${owner}`)
    },
  }
}
