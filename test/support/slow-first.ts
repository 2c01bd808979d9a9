import { BaseSequencer, type TestSpecification } from 'vitest/node'

const foldersSlowestFirst = ['e2e', 'integration', 'security']

/**
 * Starts the files that start processes and databases before all others, so that no slow one is left alone at the end.
 * Vitest orders by what files took the last time, which a fresh clone does not know.
 */
export class SlowFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    // oxlint-disable-next-line unicorn/no-array-sort -- it is a method of ours, not of an array
    const sorted = await super.sort(files)
    return sorted.toSorted((one, other) => rank(one) - rank(other))
  }
}

function rank({ moduleId }: TestSpecification): number {
  const at = foldersSlowestFirst.findIndex((folder) => moduleId.includes(`/test/${folder}/`))
  return at === -1 ? foldersSlowestFirst.length : at
}
