import type { SpoolFile, SpoolFiles } from '../../../src/audit/spool-files.ts'
import { spoolFiles } from '../../../src/audit/spool-files.ts'

export type FaultyFiles = SpoolFiles & {
  /** What writes do: the code of an error, or how many bytes of a write arrive before it. Undefined: they work. */
  writeFault: { readonly code: string; readonly after?: number } | undefined
  syncFault: string | undefined
  /** What the next ones do, besides. */
  readonly syncScript: string[]
  createFault: string | undefined
  /** A sync waits for it. */
  disk: Promise<void>
  /** Calls of every kind so far, as `write 1`, `sync 1`, with the number of the file. */
  readonly calls: string[]
}

/** The real file system, until it is told to fail. */
export function createFaultyFiles(): FaultyFiles {
  let count = 0
  const fault = (code: string) => Object.assign(new Error('a secret path'), { code })
  const files: FaultyFiles = {
    writeFault: undefined,
    syncFault: undefined,
    syncScript: [],
    createFault: undefined,
    disk: Promise.resolve(),
    calls: [],
    create(path) {
      if (files.createFault !== undefined) throw fault(files.createFault)
      const file = spoolFiles.create(path)
      count += 1
      const number = count
      const faulty: SpoolFile = {
        ...file,
        write(bytes, offset, length) {
          files.calls.push(`write ${number}`)
          if (files.writeFault === undefined) return file.write(bytes, offset, length)
          const { code, after = 0 } = files.writeFault
          if (after > 0) {
            files.writeFault = { code }
            return file.write(bytes, offset, Math.min(after, length))
          }
          throw fault(code)
        },
        async sync() {
          files.calls.push(`sync ${number}`)
          const code = files.syncScript.shift() ?? files.syncFault
          await files.disk
          if (code !== undefined) throw fault(code)
          await file.sync()
          files.calls.push(`synced ${number}`)
        },
        close() {
          files.calls.push(`close ${number}`)
          file.close()
        },
      }
      return faulty
    },
  }
  return files
}
