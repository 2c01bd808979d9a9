import { readFile, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { createMetrics } from '../../src/metrics/metrics.ts'

const page = await readFile('docs/operating.md', 'utf8')

async function sources(): Promise<readonly string[]> {
  const names = await readdir('src', { recursive: true })
  const files = names.filter((name) => name.endsWith('.ts'))
  return Promise.all(files.map((name) => readFile(join('src', name), 'utf8')))
}

describe('docs/operating.md', () => {
  it('explains every event of the log', async () => {
    const events = new Set<string>()
    for (const text of await sources()) {
      for (const [, event] of text.matchAll(/\bevent(?:: | = )'([a-z_]+)'/g)) {
        if (event !== undefined) events.add(event)
      }
    }
    expect(events.size).toBeGreaterThan(40)
    const missing = [...events].filter((event) => !page.includes(`\`${event}\``))
    expect(missing).toEqual([])
  })

  it('names every metric of ours', async () => {
    const stats = { depth: 0, bytes: 0, ageSeconds: 0, dropped: 0 }
    const text = await createMetrics({ auditStats: () => stats }).text()
    const names = [...text.matchAll(/^# HELP (onbehalf_\w+)/gm)].map(([, name]) => name ?? '')
    expect(names.length).toBeGreaterThan(8)
    expect(names.filter((name) => !page.includes(`\`${name}`))).toEqual([])
  })
})
