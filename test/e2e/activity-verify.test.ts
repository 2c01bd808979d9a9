import { randomBytes } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import { join } from 'node:path'
import { beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest'
import { createEmptyDatabase } from '../support/database.ts'
import { connectTo } from '../support/postgres-client.ts'
import { ensureBuilt, type ProgramEnd, startProgram } from '../support/program.ts'

vi.setConfig({ testTimeout: 180_000 })
beforeAll(ensureBuilt, 120_000)

const key = 'service-key-service-key-service-key'

describe('activity verify, as an operator runs it', () => {
  it('L10: checks the log of processes that ran and were killed, and names what was done to it; a new encryption key changes nothing', async () => {
    const database = await createEmptyDatabase()
    onTestFinished(database.drop)
    const cwd = await mkdtemp(join(os.tmpdir(), 'onbehalf-e2e-'))
    onTestFinished(() => rm(cwd, { recursive: true, force: true, maxRetries: 5 }))
    const [k1, k2] = ['k1', 'k2'].map((id) => ({ id, secret: randomBytes(32).toString('base64') }))
    const configure = (keys: unknown[]) =>
      writeFile(
        join(cwd, 'onbehalf.yaml'),
        JSON.stringify({
          public_url: 'http://127.0.0.1:8080',
          listen: { port: 0 },
          database: { url: database.url },
          encryption: { keys },
          identity: {
            issuers: [{ issuer: 'http://127.0.0.1:9' }],
            services: [{ id: 'edge', key, upstreams: ['*'], may_read_activity: true }],
          },
          upstreams: {
            files: {
              url: 'https://files.example.com',
              kind: 'http',
              credential: {
                mode: 'token_exchange',
                token_endpoint: 'https://as.example.com/token',
              },
            },
          },
        }),
      )
    const run = (...argv: string[]): Promise<ProgramEnd> => startProgram(argv, { cwd }).ended
    const verify = (...more: string[]) => run('activity', 'verify', ...more)
    let log = ''

    /** Serves a few calls, each of which leaves a record. */
    async function serve(signal: NodeJS.Signals, online?: (url: string) => Promise<void>) {
      const program = startProgram(['serve'], { cwd })
      const url = await program.ready()
      for (let call = 0; call < 3; call += 1) {
        const answer = await fetch(`${url}/api/v1/resolve`, {
          method: 'POST',
          headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
          body: JSON.stringify({ upstream: 'files', subject_token: 'nobody' }),
        })
        expect(answer.status).toBe(401)
      }
      await online?.(url)
      program.kill(signal)
      const { stdout } = await program.ended
      log += stdout
    }

    await configure([k1])
    expect((await run('migrate')).code).toBe(0)
    await serve('SIGTERM')
    await serve('SIGKILL')
    await serve('SIGTERM', async (url) => {
      const { code, stdout } = await verify('--url', url, '--token', key, '-o', 'json')
      expect([code, JSON.parse(stdout)]).toMatchObject([0, { ok: true, findings: [] }])
    })

    const lines = log.split('\n').filter((line) => line.includes('"event":"activity_checkpoint"'))
    expect(lines.length).toBeGreaterThanOrEqual(4)
    await writeFile(join(cwd, 'serve.log'), log)
    const plain = await verify()
    expect(plain).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('9 records, 3 writers') as string,
    })
    expect(plain.stderr).toContain('could have removed')
    // Rotation: the key that signs is sealed anew, and signs and verifies as before.
    await configure([k2, k1])
    expect((await run('keys', 'rewrap')).code).toBe(0)
    await configure([k2])
    expect(await verify('--checkpoints', 'serve.log')).toMatchObject({ code: 0, stderr: '' })

    const sql = connectTo(database.url)
    const [first] = await sql<{ writer: string }[]>`
      select writer from activity group by writer order by min(occurred_at) limit 1`
    const writer = first?.writer ?? ''
    await sql`update activity set user_id = 'mallory' where writer = ${writer} and seq = 2`
    await sql`delete from activity where writer = ${writer} and seq = 3`
    const tampered = await verify('--checkpoints', 'serve.log')
    expect(tampered.code).toBe(1)
    expect(tampered.stdout.split('\n').slice(0, 2)).toEqual([
      `edited ${writer} 2`,
      `tail_cut ${writer} 3`,
    ])
    await sql`delete from activity`
    await sql`delete from activity_writer`
    await sql`delete from activity_checkpoint`
    await sql.end()
    const emptied = await verify('--checkpoints', 'serve.log')
    expect(emptied.code).toBe(1)
    expect(emptied.stdout.match(/^writer_missing /gm)).toHaveLength(3)
  })
})
