/**
 * A refusal for whoever runs the broker, at start or from the command line. The message says what is wrong and what to
 * do about it, in our own words, without a secret: it may be printed and logged as it is.
 */
export class OperatorError extends Error {
  /** A stable label, such as `data_dir_in_use`. */
  readonly code: string

  constructor(code: string, message: string, options: { readonly cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.name = 'OperatorError'
    this.code = code
  }
}

export function isOperatorError(error: unknown, ...codes: string[]): error is OperatorError {
  return error instanceof OperatorError && (codes.length === 0 || codes.includes(error.code))
}
