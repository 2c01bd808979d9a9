/** The command line is wrong: printed with the command's usage, exit code 2. */
export class UsageError extends Error {
  constructor(message: string) {
    super(message)
    this.name = 'UsageError'
  }
}

/** The command did what was asked and it did not work: printed as it is, exit code 1. */
export class CommandFailure extends Error {
  /** The code of the broker's answer, where there was one. */
  readonly code: string | undefined

  constructor(message: string, code?: string) {
    super(message)
    this.name = 'CommandFailure'
    this.code = code
  }
}
