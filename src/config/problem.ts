/** Something that the configuration must change, or, as a warning, that its author should know. Holds no value of the file. */
export type Problem = {
  /** Such as `upstreams.files.credential.mode` or `identity.services[0].key`; empty for the file as a whole. */
  readonly path: string
  readonly message: string
}

/** Where a value stands in the file: keys and indexes from the top. */
export type Path = readonly (string | number)[]

/** A problem before its path is written out. */
export type Finding = { readonly path: Path; readonly message: string }

/** Where the checks that look at several fields say what they found. */
export type Report = {
  /** `reads` names the fields that the check looked at; where one of them is wrong already, the finding is dropped. */
  problem(path: Path, message: string, reads?: readonly Path[]): void
  warning(path: Path, message: string): void
}

// A secret written without the space after its colon (`{ id: k1, secret:abc }`) becomes a key, so only what looks like a
// name is shown. Names of upstreams are no place for one.
const nameLike = /^[A-Za-z0-9_-]{1,63}$/
const printable = /^[\x20-\x7e]{1,80}$/

export function formatPath(path: Path): string {
  let text = ''
  for (const [index, segment] of path.entries()) {
    if (typeof segment === 'number') text += `[${segment}]`
    else if (nameLike.test(segment)) text += `${text === '' ? '' : '.'}${segment}`
    else if (index === 1 && text === 'upstreams' && printable.test(segment)) {
      text += `[${JSON.stringify(segment)}]`
    } else text += `${text === '' ? '' : '.'}(name not shown)`
  }
  return text
}

export function toProblem({ path, message }: Finding): Problem {
  return { path: formatPath(path), message }
}

/** Whether one path is the other or lies inside it. */
export function overlaps(a: Path, b: Path): boolean {
  const length = Math.min(a.length, b.length)
  for (let index = 0; index < length; index++) {
    if (a[index] !== b[index]) return false
  }
  return true
}

/** The value at a path; undefined where there is none. */
export function valueAt(root: unknown, path: Path): unknown {
  let value = root
  for (const segment of path) {
    if (typeof value !== 'object' || value === null || !Object.hasOwn(value, segment)) {
      return undefined
    }
    value = (value as Record<string | number, unknown>)[segment]
  }
  return value
}
