import { chmod, cp, mkdtemp, rm, symlink } from 'node:fs/promises'
import os from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { ensureBuilt } from './program.ts'

const root = resolve(import.meta.dirname, '../..')

export type CompiledSources = {
  /** For an import statement of a script: `moduleUrl('storage/database.ts')`. */
  readonly moduleUrl: (source: string) => string
  readonly directory: string
  readonly remove: () => Promise<void>
}

/** The package as it is built, for tests that need a process of its own to kill. Everybody may read it. */
export async function compileSources(): Promise<CompiledSources> {
  await ensureBuilt()
  const directory = await mkdtemp(join(os.tmpdir(), 'onbehalf-compiled-'))
  await chmod(directory, 0o755)
  for (const part of ['dist', 'migrations', 'package.json']) {
    await cp(join(root, part), join(directory, part), { recursive: true })
  }
  await symlink(join(root, 'node_modules'), join(directory, 'node_modules'))
  return {
    directory,
    moduleUrl: (source) =>
      pathToFileURL(join(directory, 'dist', source.replace(/\.ts$/, '.js'))).href,
    remove: () => rm(directory, { recursive: true, force: true }),
  }
}
