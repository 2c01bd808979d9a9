import { execFile } from 'node:child_process'
import { mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import os from 'node:os'
import { join, resolve } from 'node:path'
import { expect, it, type TestContext } from 'vitest'

const root = resolve(import.meta.dirname, '../../..')

/** The lines that a run of vitest over one file with this text prints, which tries again what failed when asked to. */
async function linesOf(
  text: string,
  { onTestFinished }: TestContext,
  ...more: readonly string[]
): Promise<readonly string[]> {
  const directory = await mkdtemp(join(os.tmpdir(), 'onbehalf-closing-line-'))
  onTestFinished(() => rm(directory, { recursive: true, force: true }))
  await symlink(join(root, 'node_modules'), join(directory, 'node_modules'))
  await writeFile(join(directory, 'package.json'), '{"type":"module"}')
  await writeFile(join(directory, 'some.test.js'), text)
  const reporter = join(root, 'test/support/closing-line.ts')
  const config = `export default { cacheDir: './cache', test: { reporters: ['default', ${JSON.stringify(reporter)}] } }`
  await writeFile(join(directory, 'vitest.config.js'), config)
  const vitest = join(root, 'node_modules/vitest/vitest.mjs')
  const args = [vitest, 'run', '--root', directory, '--configLoader', 'runner', ...more]
  return new Promise((done) => {
    const options = { cwd: directory, env: { ...process.env, CI: '1', NO_COLOR: '1' } }
    execFile(process.execPath, args, options, (_error, stdout) => {
      done(stdout.trimEnd().split('\n'))
    })
  })
}

const cases: [string, string, string][] = [
  ['passes', `it('a', () => {}); it('b', () => {})`, '2 passed, 0 failed'],
  [
    'passes with tests left out',
    `it('a', () => {}); it.skip('b', () => {})`,
    '1 passed, 0 failed, 1 skipped',
  ],
  ['fails', `it('a', () => {}); it('b', () => { throw new Error('no') })`, '1 passed, 1 failed'],
  ['cannot be read', `import './nothing.js'; it('a', () => {})`, '0 passed, 1 failed'],
  [
    'has a hook that fails',
    `beforeAll(() => { throw new Error('no') }); it('a', () => {})`,
    '0 passed, 1 failed, 1 skipped',
  ],
  [
    'leaves a rejection unhandled',
    `it('a', () => { void Promise.reject(new Error('no')) })`,
    '1 passed, 1 failed',
  ],
  ['holds no test', `void 0`, '0 passed, 1 failed'],
]

it.concurrent.for(cases)(
  'a run that %s says so in its last line, alone',
  async ([, text, line], test) => {
    const whole = `import { beforeAll, it } from 'vitest'\nvoid beforeAll\n${text}\n`
    expect((await linesOf(whole, test)).at(-1)).toBe(line)
  },
)

it('a run whose test passes only when tried again names it, and counts it as passed', async (test) => {
  const text = `
    import { describe, it } from 'vitest'
    let tries = 0
    describe('one', () => it('of two', () => { if (++tries === 1) throw new Error('no') }))
    it('other', () => {})`
  const lines = await linesOf(text, test, '--retry=1')
  expect(lines.slice(-2)).toEqual([
    'passed only when tried again: some.test.js > one > of two',
    '2 passed, 0 failed',
  ])
  expect((await linesOf(text, test)).at(-1)).toBe('1 passed, 1 failed')
})
