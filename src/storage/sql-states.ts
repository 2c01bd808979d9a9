/** The SQLSTATEs that are waited for by name: PostgreSQL's own names of them. */
export const sqlStates = {
  uniqueViolation: '23505',
  undefinedTable: '42P01',
  lockNotAvailable: '55P03',
  queryCanceled: '57014',
  adminShutdown: '57P01',
  crashShutdown: '57P02',
  cannotConnectNow: '57P03',
} as const
