import type { CredentialKey } from './credential.ts'
import type { Notices } from './ports/notices.ts'

/** One who waits for a change of a row. */
export type Wakeup = {
  /** Resolves with the first notice since the last wait or since `expect`, at the latest after `ms`. */
  wait(ms: number): Promise<void>
  end(): void
}

/** Wakes who waits for another replica's work on a credential. Notices can be lost: whoever waits looks each second as well. */
export interface Wakeups {
  /** Called before the row is looked at, so that nothing falls between the look and the wait. */
  expect(key: CredentialKey): Wakeup
}

export function createWakeups(ports: { readonly notices: Notices }): Wakeups {
  const { notices } = ports
  const expecting = new Map<string, Set<() => void>>()
  notices.on('credential', (subject) => {
    for (const wake of expecting.get(subject) ?? []) wake()
  })
  notices.onGap(() => {
    for (const same of expecting.values()) for (const wake of same) wake()
  })

  return {
    expect(key) {
      const subject = notices.subjectOf(key)
      let woken = false
      let waiting: (() => void) | undefined
      const wake = () => {
        woken = true
        waiting?.()
      }
      const same = expecting.get(subject) ?? new Set()
      expecting.set(subject, same)
      same.add(wake)
      return {
        wait: (ms) =>
          new Promise((resolve) => {
            const done = () => {
              clearTimeout(timer)
              waiting = undefined
              woken = false
              resolve()
            }
            const timer = setTimeout(done, ms)
            waiting = done
            if (woken) done()
          }),
        end() {
          same.delete(wake)
          if (same.size === 0 && expecting.get(subject) === same) expecting.delete(subject)
        },
      }
    },
  }
}
