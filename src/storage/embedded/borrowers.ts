import type { Secret } from '../../core/secret.ts'
import { connectOnce } from '../connections.ts'

/*
 * A command that finds no broker on its data directory starts the embedded database for itself, and others that come
 * meanwhile use it as well. Each of those shows itself by a connection, which ends with its process.
 */

/** Shows whoever runs the database that a command uses it, until what is given is called; undefined where nobody answers. */
export async function showBorrower(url: Secret): Promise<(() => Promise<void>) | undefined> {
  try {
    const sql = await connectOnce(url, 'borrower')
    return () => sql.end({ timeout: 1 })
  } catch {
    return undefined
  }
}

/** False also where the database does not answer: nobody can use it then. */
export async function hasBorrowers(url: Secret): Promise<boolean> {
  try {
    const sql = await connectOnce(url, 'lender')
    try {
      const shown = await sql`
        select 1 from pg_stat_activity where application_name = 'onbehalf borrower' limit 1`
      return shown.length > 0
    } finally {
      await sql.end({ timeout: 1 })
    }
  } catch {
    return false
  }
}
