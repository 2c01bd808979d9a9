import { it } from 'vitest'
import { type Row, type Scene, startScene } from './scene.ts'

declare module 'vitest' {
  interface TaskMeta {
    /** What a scenario came to, for the table. */
    fault?: Row & { readonly seconds: number }
  }
}

const repeats = Number(process.env['FAULTS_REPEAT'] ?? 1)
/** Longer than a lease, a take-over and the waits of callers together, on a machine that is busy. */
const timeLimitMs = 300_000

/** A scenario with brokers, a database and a server of its own; as often as FAULTS_REPEAT says. */
export function scenario(
  name: string,
  options: Parameters<typeof startScene>[0],
  run: (scene: Scene) => Promise<Row>,
): void {
  for (let round = 1; round <= repeats; round += 1) {
    const title = repeats === 1 ? name : `${name} (${round})`
    it.concurrent(title, { timeout: timeLimitMs }, async ({ task }) => {
      const startMs = performance.now()
      const scene = await startScene(options)
      try {
        const row = await run(scene)
        task.meta.fault = { ...row, seconds: (performance.now() - startMs) / 1000 }
      } finally {
        await scene.stop()
      }
    })
  }
}
