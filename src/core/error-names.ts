import { BrokerError } from './errors.ts'

/** What may be written of an error. Its text may be a server's, or hold values. */
export type ErrorNames = {
  readonly errorClass: string
  /** Such as a SQLSTATE, or the code of a system call. */
  readonly errorCode: string | undefined
}

export function namesOf(error: unknown): ErrorNames {
  if (!(error instanceof Error)) return { errorClass: typeof error, errorCode: undefined }
  const code = 'code' in error ? error.code : undefined
  return { errorClass: asName(error.name) ?? 'Error', errorCode: asName(code) }
}

/** The names of what is behind a BrokerError; of any other error, its own. */
export function namesOfCause(error: unknown): ErrorNames {
  const isCaused = error instanceof BrokerError && error.cause instanceof Error
  return namesOf(isCaused ? error.cause : error)
}

/** A class and a code are names of programs; anything that does not look like one might be text of a server's. */
function asName(value: unknown): string | undefined {
  return typeof value === 'string' && /^\w{1,64}$/.test(value) ? value : undefined
}
