const longestPassingSeconds = 30
const firstLastingSeconds = 0.25
const longestLastingSeconds = 5

/**
 * How long nobody tries again after so many passing failures in a row: full jitter over a window that grows from 1 s to 30 s,
 * so that callers who failed together do not return together.
 */
export function passingPauseSeconds(failures: number, random: () => number): number {
  const window = Math.min(longestPassingSeconds, 2 ** Math.min(failures, 5))
  return 1 + random() * (window - 1)
}

/**
 * How far apart tries are that only a change elsewhere can mend. Short, because whoever calls waits it out rather than being
 * refused unasked: what was put right works at the next call, and what was not costs few requests however many call.
 */
export function lastingPauseSeconds(failures: number): number {
  return Math.min(longestLastingSeconds, firstLastingSeconds * 2 ** Math.min(failures - 1, 8))
}
