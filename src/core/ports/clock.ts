export interface Clock {
  now(): Date
}

/** Goes on evenly whatever is done to the wall clock, and while the process stands still; only differences mean anything. */
export interface Stopwatch {
  /** In milliseconds. */
  read(): number
}
