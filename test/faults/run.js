import { parseArgs } from 'node:util'
import { startVitest } from 'vitest/node'

/** `npm run test:faults -- --only "V8" --only "V21" --repeat 5`: the scenarios whose name holds one of the texts, so often. */
const { values } = parseArgs({
  options: { only: { type: 'string', multiple: true }, repeat: { type: 'string' } },
})
if (values.repeat !== undefined) process.env['FAULTS_REPEAT'] = values.repeat
const names = values.only?.map((text) => text.replaceAll(/[.*+?^${}()|[\]\\]/g, String.raw`\$&`))
await startVitest('test', [], {
  config: 'vitest.faults.config.ts',
  watch: false,
  ...(names === undefined ? {} : { testNamePattern: names.join('|') }),
})
