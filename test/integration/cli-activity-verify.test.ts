import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createPublicKey, generateKeyPairSync } from 'node:crypto'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Configuration } from '../../src/cli/services.ts'
import { type CliRun, onbehalf } from '../support/cli.ts'
import { fileWith } from '../support/config-files.ts'
import { type ScriptedServer, startScriptedServer, text } from '../support/scripted-server.ts'

type Asked = Parameters<Configuration['verifyActivity']>[0]

const counts = { records: 12, writers: 2, unchained: 0, removed: 0, checkpoints: 3 }
const edited = { kind: 'edited', writer: 'w1', seq: 5, through: 5 } as const
const removed = { kind: 'removed', writer: 'w2', seq: 4, through: 9 } as const

let cwd: string
let broker: ScriptedServer
beforeAll(async () => {
  cwd = await mkdtemp(join(tmpdir(), 'onbehalf-verify-'))
  await writeFile(join(cwd, 'onbehalf.yaml'), JSON.stringify(fileWith()))
  broker = await startScriptedServer()
})
afterAll(async () => {
  await broker.close()
  await rm(cwd, { recursive: true, force: true })
})

/** Against a database that has these findings; gives what it was asked for, too. */
async function verify(
  argv: readonly string[],
  findings: readonly (typeof edited | typeof removed)[] = [],
  isWatched = false,
): Promise<
  CliRun & { readonly lines: readonly string[]; readonly keys: readonly string[] | undefined }
> {
  const lines: string[] = []
  let keys: readonly string[] | undefined
  const verifyActivity = async ({ checkpointLines, publicKeys, onProgress }: Asked) => {
    keys = publicKeys
    for await (const line of checkpointLines ?? []) lines.push(line)
    onProgress(6, 12)
    return { findings, ...counts }
  }
  const run = await onbehalf(['activity', 'verify', ...argv], {
    cwd,
    actions: { verifyActivity },
    isWatched,
  })
  return { ...run, lines, keys }
}

describe('activity verify', () => {
  it('prints what is wrong, one line each, and exits with 1', async () => {
    const { code, stdout, stderr } = await verify([], [edited, removed])
    expect(code).toBe(1)
    expect(stdout).toBe(
      'edited w1 5\nremoved w2 4-9\n2 things wrong: 12 records, 2 writers, 3 checkpoints.\n',
    )
    expect(stderr).toContain('whoever can edit the database could have removed some')
    expect((await verify(['-o', 'csv'], [edited])).stdout).toBe(
      'kind,writer,seq,through\r\nedited,w1,5,5\r\n',
    )
    const ndjson = (await verify(['-o', 'ndjson'], [removed])).stdout
    expect(ndjson).toBe(`${JSON.stringify(removed)}\n${JSON.stringify({ ok: false, ...counts })}\n`)
  })

  it('exits with 0 when nothing is wrong, and shows a bar to a person only', async () => {
    expect(await verify([])).toMatchObject({
      code: 0,
      stdout: 'Nothing is wrong: 12 records, 2 writers, 3 checkpoints.\n',
    })
    expect((await verify([])).stderr).not.toContain('%')
    expect((await verify([], [], true)).stderr).toContain(' 50%  6 of 12 records')
  })

  it('hands on the lines of --checkpoints, and the keys of --public-key in every form', async () => {
    await writeFile(join(cwd, 'serve.log'), 'one\ntwo\n')
    const { lines, stderr } = await verify(['--checkpoints', 'serve.log'])
    expect(lines).toEqual(['one', 'two'])
    expect(stderr).toBe('')
    const { publicKey } = generateKeyPairSync('ed25519')
    const jwk = createPublicKey(publicKey.export({ format: 'pem', type: 'spki' })).export({
      format: 'jwk',
    })
    const forms = [
      String(publicKey.export({ format: 'pem', type: 'spki' })),
      JSON.stringify(jwk),
      JSON.stringify({ keys: [jwk] }),
      `${jwk.x}\n`,
    ]
    for (const form of forms) {
      await writeFile(join(cwd, 'key'), form)
      expect((await verify(['--public-key', 'key'])).keys).toEqual([jwk.x])
    }
    const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey
    await writeFile(join(cwd, 'key'), rsa.export({ format: 'pem', type: 'spki' }))
    expect(await verify(['--public-key', 'key'])).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('key holds no Ed25519 public key') as string,
    })
    for (const option of ['--checkpoints', '--public-key']) {
      expect(await verify([option, 'missing'])).toMatchObject({
        code: 1,
        stderr: 'missing cannot be read.\n',
      })
    }
  })

  it('asks a broker where one is named, and believes no answer that was cut off', async () => {
    const online = (...more: string[]) =>
      onbehalf(['activity', 'verify', ...more], {
        env: { ONBEHALF_URL: broker.origin, ONBEHALF_TOKEN: 'cnry-token' },
      })
    const answer = (...lines: object[]) =>
      broker.script(
        text(
          `   ${lines.map((line) => JSON.stringify(line)).join('\n')}\n`,
          'application/x-ndjson',
        ),
      )
    answer({ ok: true, ...counts })
    expect((await online()).code).toBe(0)
    expect(broker.requests.at(-1)).toMatchObject({
      path: '/api/v1/activity/verify',
      headers: { authorization: 'Bearer cnry-token' },
    })
    answer(edited, { ok: false, ...counts })
    expect(await online()).toMatchObject({
      code: 1,
      stdout: expect.stringContaining('edited w1 5\n') as string,
    })
    answer(edited)
    expect(await online()).toMatchObject({
      code: 1,
      stdout: '',
      stderr: expect.stringContaining('cut off') as string,
    })
    answer({ hello: 'world' })
    expect(await online()).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('not one of onbehalf') as string,
    })
    expect(await online('--url', broker.origin, '--checkpoints', 'x')).toMatchObject({ code: 2 })
  })
})
