import { ensureBuilt } from '../../support/program.ts'

/** The scenarios run the program as it is installed. */
export const setup = ensureBuilt
