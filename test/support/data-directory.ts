import { execFile } from 'node:child_process'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { inject } from 'vitest'

const run = promisify(execFile)

/**
 * Puts the files of the embedded database into a data directory, as a broker left them that has made them and no table. It is
 * quicker than making them, for tests that are not about that. With DATABASE_URL there are none to copy, and they are made.
 */
export async function fillDataDirectory(dataDir: string): Promise<void> {
  const { dataDirectory } = inject('postgres')
  if (dataDirectory !== undefined) await copyDataDirectory(dataDirectory, dataDir)
}

/** Owners and modes stay as they are. */
export async function copyDataDirectory(from: string, to: string): Promise<void> {
  await mkdir(to, { recursive: true, mode: 0o700 })
  const parts = ['postgres', 'postgres-password'].map((part) => join(from, part))
  await run('cp', ['-Rp', ...parts, to])
}
