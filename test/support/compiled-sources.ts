import { spawnSync } from 'node:child_process'
import { chmod, cp, mkdtemp, rm, symlink } from 'node:fs/promises'
import os from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

const root = resolve(import.meta.dirname, '../..')

export type CompiledSources = {
  /** For an import statement of a script: `moduleUrl('storage/database.ts')`. */
  readonly moduleUrl: (source: string) => string
  readonly directory: string
  readonly remove: () => Promise<void>
}

/** Today's `src`, compiled as the package is, for tests that need a process of its own to kill. Everybody may read it. */
export async function compileSources(): Promise<CompiledSources> {
  const directory = await mkdtemp(join(os.tmpdir(), 'onbehalf-compiled-'))
  await chmod(directory, 0o755)
  const tsc = join(root, 'node_modules/.bin/tsc')
  const project = join(root, 'tsconfig.build.json')
  // Whether the types are right is another check's business; JavaScript comes out all the same.
  spawnSync(tsc, ['-p', project, '--outDir', join(directory, 'dist'), '--declaration', 'false'], {
    cwd: root,
  })
  await cp(join(root, 'migrations'), join(directory, 'migrations'), { recursive: true })
  await cp(join(root, 'package.json'), join(directory, 'package.json'))
  await symlink(join(root, 'node_modules'), join(directory, 'node_modules'))
  return {
    directory,
    moduleUrl: (source) =>
      pathToFileURL(join(directory, 'dist', source.replace(/\.ts$/, '.js'))).href,
    remove: () => rm(directory, { recursive: true, force: true }),
  }
}
