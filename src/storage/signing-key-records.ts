import { asc } from 'drizzle-orm'
import type { SigningKeyRecords } from '../core/ports/signing-key-records.ts'
import type { Database } from './database.ts'
import { activitySigningKey } from './schema/activity-proof.ts'

export function createSigningKeyRecords({ db, run }: Database): SigningKeyRecords {
  return {
    async list() {
      const rows = await run(() =>
        db.select().from(activitySigningKey).orderBy(asc(activitySigningKey.number)),
      )
      return rows.map(({ privateKey, ...row }) => ({ ...row, sealedPrivateKey: privateKey }))
    },

    async insert({ sealedPrivateKey, ...record }) {
      const row = { ...record, privateKey: Buffer.from(sealedPrivateKey) }
      await run(() => db.insert(activitySigningKey).values(row).onConflictDoNothing())
    },
  }
}
