import { mkdir, mkdtemp, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises'
import os from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest'
import { claimDataDirectory, isDataDirectoryClaimed } from '../../../src/storage/data-directory.ts'
import { runModule } from '../../support/child-process.ts'
import { type CompiledSources, compileSources } from '../../support/compiled-sources.ts'

let compiled: CompiledSources
beforeAll(async () => {
  compiled = await compileSources()
})
afterAll(() => compiled.remove())

async function temporaryDirectory(): Promise<string> {
  const directory = await mkdtemp(join(os.tmpdir(), 'onbehalf-data-'))
  onTestFinished(() => rm(directory, { recursive: true, force: true }))
  return directory
}

/** A process that claims the directory and stays until it is killed. */
function claimer(directory: string) {
  const child = runModule(`
    import { claimDataDirectory } from '${compiled.moduleUrl('storage/data-directory.ts')}'
    await claimDataDirectory(${JSON.stringify(directory)})
    console.log('claimed')
    setInterval(() => {}, 1000)`)
  onTestFinished(() => child.kill())
  return child
}

describe('a data directory', () => {
  it('is made for its owner alone, and not what is above it', async () => {
    const above = join(await temporaryDirectory(), 'var')
    const directory = await claimDataDirectory(join(above, 'data'))
    expect((await stat(directory.path)).mode & 0o777).toBe(0o700)
    expect((await stat(above)).mode & 0o055).not.toBe(0)
    await directory.release()
  })

  it('belongs to one process: a second is refused, and told whose it is', async () => {
    const path = await temporaryDirectory()
    await claimer(path).line(/claimed/)
    await expect(claimDataDirectory(path)).rejects.toMatchObject({
      name: 'OperatorError',
      code: 'data_dir_in_use',
      message: expect.stringMatching(/process \d+.*data_dir/) as string,
    })
    expect(await isDataDirectoryClaimed(path)).toBe(true)
  })

  it('belongs to one claim also within a process, and under another name of it', async () => {
    const path = await temporaryDirectory()
    const directory = await claimDataDirectory(path)
    const link = join(await temporaryDirectory(), 'link')
    await symlink(path, link)
    await expect(claimDataDirectory(link)).rejects.toMatchObject({ code: 'data_dir_in_use' })
    await directory.release()
  })

  it('is free again after a release', async () => {
    const path = await temporaryDirectory()
    await (await claimDataDirectory(path)).release()
    expect(await isDataDirectoryClaimed(path)).toBe(false)
    await (await claimDataDirectory(path)).release()
  })

  it('is free again after a kill -9, whatever process has that id by then', async () => {
    const path = await temporaryDirectory()
    const first = claimer(path)
    await first.line(/claimed/)
    await first.kill('SIGKILL')
    expect((await readdir(path)).filter((name) => name.startsWith('lock.'))).toHaveLength(1)
    // As if the number had been given to us.
    const left = (await readdir(path)).find((name) => name.startsWith('lock.'))
    await writeFile(join(path, 'owner.json'), JSON.stringify({ lock: left, pid: process.pid }))
    const directory = await claimDataDirectory(path)
    expect((await readdir(path)).filter((name) => name.startsWith('lock.'))).toHaveLength(1)
    await directory.release()
  })

  it('goes to one of many who start at once', async () => {
    const path = await temporaryDirectory()
    for (let round = 0; round < 5; round += 1) {
      const claims = await Promise.allSettled(
        Array.from({ length: 6 }, () => claimDataDirectory(path)),
      )
      const won = claims.filter((claim) => claim.status === 'fulfilled')
      expect(won).toHaveLength(1)
      for (const claim of claims) {
        if (claim.status === 'rejected') {
          expect(claim.reason).toMatchObject({ code: 'data_dir_in_use' })
        }
      }
      for (const { value } of won) await value.release()
    }
  })

  it('may have a path longer than the address of a socket', async () => {
    const path = join(await temporaryDirectory(), 'd'.repeat(120), 'e'.repeat(120))
    const directory = await claimDataDirectory(path)
    expect(await isDataDirectoryClaimed(path)).toBe(true)
    await expect(claimDataDirectory(path)).rejects.toMatchObject({ code: 'data_dir_in_use' })
    await directory.release()
    expect(await isDataDirectoryClaimed(path)).toBe(false)
  })

  it('that cannot be one is refused with what to do', async () => {
    const file = join(await temporaryDirectory(), 'file')
    await writeFile(file, '')
    await expect(claimDataDirectory(file)).rejects.toMatchObject({ code: 'data_dir_unusable' })
    await expect(claimDataDirectory(join(file, 'below'))).rejects.toMatchObject({
      code: 'data_dir_unusable',
    })
  })

  it('that is not there is claimed by nobody', async () => {
    const path = join(await temporaryDirectory(), 'nothing')
    expect(await isDataDirectoryClaimed(path)).toBe(false)
    await mkdir(path)
    expect(await isDataDirectoryClaimed(path)).toBe(false)
  })
})
