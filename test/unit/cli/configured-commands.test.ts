import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import type { KeyStatus, RecordedRewrap } from '../../../src/core/ports/key-reports.ts'
import { BrokerError } from '../../../src/core/errors.ts'
import { OperatorError } from '../../../src/core/operator-error.ts'
import { type ConfiguredActions, onbehalf } from '../../support/cli.ts'
import { credentialWith, type FileValues, fileWith, goodKey } from '../../support/config-files.ts'

let directory: string
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'onbehalf-cli-'))
})
afterEach(async () => {
  await rm(directory, { recursive: true })
})

const write = (values: FileValues | string, name = 'onbehalf.yaml'): Promise<void> =>
  writeFile(join(directory, name), typeof values === 'string' ? values : JSON.stringify(values))

describe('which file is read', () => {
  it('is --config, else $ONBEHALF_CONFIG, else onbehalf.yaml, from where one stands', async () => {
    await write(fileWith({ nosuch1: 1 }))
    await write(fileWith({ nosuch2: 1 }), 'from-variable.yaml')
    await write(fileWith({ nosuch3: 1 }), 'from-option.yaml')
    const check = async (argv: string[], env: Record<string, string> = {}): Promise<string> =>
      (await onbehalf(['config', 'check', ...argv], { cwd: directory, env })).stderr
    const env = { ONBEHALF_CONFIG: 'from-variable.yaml' }
    expect(await check([])).toContain('nosuch1')
    expect(await check([], { ONBEHALF_CONFIG: '' })).toContain('nosuch1')
    expect(await check([], env)).toContain('nosuch2')
    expect(await check(['--config', join(directory, 'from-option.yaml')], env)).toContain('nosuch3')
  })

  it('says when there is none, and what to do', async () => {
    const run = await onbehalf(['config', 'check'], { cwd: directory })
    expect(run).toMatchObject({ code: 2, stdout: '' })
    expect(run.stderr).toContain('onbehalf.yaml: 1 problem')
    expect(run.stderr).toContain('there is no such file; `onbehalf init` writes one')
  })

  it('does not offer to write one where a directory is named', async () => {
    const run = await onbehalf(['config', 'check', '--config', directory])
    expect(run).toMatchObject({ code: 2, stdout: '' })
    expect(run.stderr).toMatch(/cannot be read: it is a directory\n$/)
  })
})

describe('config check', () => {
  it('says that a good file is good', async () => {
    await write(credentialWith({}))
    expect(await onbehalf(['config', 'check'], { cwd: directory })).toEqual({
      code: 0,
      stdout: 'onbehalf.yaml is good: 1 issuer, 1 upstream, 0 services, the embedded database.\n',
      stderr: '',
    })
  })

  it('says warnings beside it', async () => {
    await write({
      ...credentialWith({ authorization_parameters: { state: 'x' } }),
      database: { url: '${DATABASE_URL}' },
    })
    const run = await onbehalf(['config', 'check'], {
      cwd: directory,
      env: { DATABASE_URL: 'postgres://db' },
    })
    expect(run.code).toBe(0)
    expect(run.stdout).toContain('PostgreSQL')
    expect(run.stderr).toBe(
      'warning: upstreams.files.credential.authorization_parameters.state: is set by onbehalf and not taken from here\n',
    )
  })

  it('says every problem at once on stderr, a line each, exit 2', async () => {
    await write(fileWith({ public_url: 'x', nosuch: 1, audit: { durability: 'paper' } }))
    const run = await onbehalf(['config', 'check'], { cwd: directory })
    expect(run).toMatchObject({ code: 2, stdout: '' })
    expect(run.stderr.split('\n')).toEqual([
      'onbehalf.yaml: 3 problems',
      expect.stringMatching(/^ {2}audit\.durability: /),
      expect.stringMatching(/^ {2}nosuch: /),
      expect.stringMatching(/^ {2}public_url: /),
      '',
    ])
  })

  it('prints no secret, neither on stdout nor on stderr', async () => {
    const canary = 'cnry-9c1d-cli'
    await write(fileWith({ encryption: { keys: [{ id: 'k1', secret: '${KEY}' }] } }))
    const run = await onbehalf(['config', 'check'], { cwd: directory, env: { KEY: canary } })
    expect(run.code).toBe(2)
    expect(run.stdout + run.stderr).not.toContain('cnry')
  })
})

describe('config schema', () => {
  it('prints the JSON Schema', async () => {
    const { code, stdout, stderr } = await onbehalf(['config', 'schema'])
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(JSON.parse(stdout)).toMatchObject({ required: ['public_url', 'encryption', 'identity'] })
  })
})

describe('serve and migrate', () => {
  it('refuse a bad configuration with every problem, and start nothing', async () => {
    await write(fileWith({ public_url: 'x', nosuch: 1 }))
    const calls: string[] = []
    const actions: ConfiguredActions = {
      serve: () => Promise.resolve(calls.push('serve')),
      migrate: () => Promise.resolve(calls.push('migrate')),
    }
    for (const command of ['serve', 'migrate']) {
      const run = await onbehalf([command], { cwd: directory, actions })
      expect(run).toMatchObject({ code: 2, stdout: '' })
      expect(run.stderr).toContain('2 problems')
    }
    expect(calls).toEqual([])
  })

  it('serve gives the exit code of the service and leaves stdout to it', async () => {
    await write(credentialWith({ authorization_parameters: { state: 'x' } }))
    const serve: ConfiguredActions['serve'] = (output) => {
      output.out('{"event":"ready"}\n')
      return Promise.resolve(0)
    }
    const run = await onbehalf(['serve'], { cwd: directory, actions: { serve } })
    expect(run).toMatchObject({ code: 0, stdout: '{"event":"ready"}\n' })
  })

  it.each([
    [0, 'The database is up to date.\n'],
    [1, 'Applied 1 migration.\n'],
    [3, 'Applied 3 migrations.\n'],
  ])('migrate says what it did: %d', async (applied, said) => {
    await write(fileWith())
    const actions = { migrate: () => Promise.resolve(applied) }
    expect(await onbehalf(['migrate'], { cwd: directory, actions })).toEqual({
      code: 0,
      stdout: said,
      stderr: '',
    })
  })

  const canary = 'postgres://user:cnry-pass@db'
  it.each([
    [
      'a database that is away',
      new BrokerError('storage_unavailable', { cause: new Error(canary) }),
      1,
      'The database cannot be reached',
    ],
    [
      'another process in data_dir',
      new OperatorError('data_dir_in_use', 'Another process uses it.'),
      1,
      'Another process uses it.',
    ],
    [
      'keys that do not fit the database',
      new OperatorError('encryption_keys_refused', 'encryption.keys: 3 rows use k0.'),
      2,
      '3 rows use k0',
    ],
    [
      'a database URL that is none',
      new OperatorError('database_url_invalid', 'database.url cannot be used.'),
      2,
      'cannot be used',
    ],
    ['a fault of ours', new TypeError(canary), 1, 'serve failed unexpectedly: TypeError'],
    [
      'a refusal of another kind',
      new BrokerError('internal_error', { cause: new Error(canary) }),
      1,
      'failed unexpectedly: BrokerError',
    ],
    ['something that is no error', canary, 1, 'no error was given'],
  ])('say in our own words when it cannot start: %s', async (_name, thrown, code, said) => {
    await write(fileWith())
    // oxlint-disable-next-line typescript/prefer-promise-reject-errors
    const actions: ConfiguredActions = { serve: () => Promise.reject(thrown) }
    const run = await onbehalf(['serve'], { cwd: directory, actions })
    expect(run).toMatchObject({ code, stdout: '' })
    expect(run.stderr).toContain(said)
    expect(run.stderr).not.toContain('cnry')
  })
})

describe('keys generate', () => {
  it('prints one line, the base64 of 32 bytes, another each time', async () => {
    const runs = await Promise.all([onbehalf(['keys', 'generate']), onbehalf(['keys', 'generate'])])
    for (const { code, stdout, stderr } of runs) {
      expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
      expect(stdout).toMatch(/^[A-Za-z0-9+/]{43}=\n$/)
      expect(Buffer.from(stdout, 'base64')).toHaveLength(32)
    }
    expect(runs[0]?.stdout).not.toBe(runs[1]?.stdout)
  })

  it('makes a key that the configuration accepts', async () => {
    const { stdout } = await onbehalf(['keys', 'generate'])
    await write(fileWith({ encryption: { keys: [{ id: 'k1', secret: stdout.trim() }] } }))
    expect((await onbehalf(['config', 'check'], { cwd: directory })).code).toBe(0)
  })
})

describe('keys status', () => {
  const used: KeyStatus = { id: 'k2', rows: 12, configured: true, seals: true, removable: false }
  const old: KeyStatus = { id: 'k1', rows: 0, configured: true, seals: false, removable: true }
  const lost: KeyStatus = { id: 'k0', rows: 3, configured: false, seals: false, removable: false }
  const report = (keys: readonly KeyStatus[], problems: readonly string[], ...argv: string[]) =>
    onbehalf(['keys', 'status', ...argv], {
      cwd: directory,
      actions: { keyStatus: () => Promise.resolve({ keys, problems }) },
    })
  const status = (keys: readonly KeyStatus[], ...argv: string[]) => report(keys, [], ...argv)
  beforeEach(() => write(fileWith()))

  it('prints a table', async () => {
    expect(await status([used, old])).toEqual({
      code: 0,
      stdout:
        'ID  ROWS  CONFIGURED  SEALS  REMOVABLE\nk2  12    yes         yes    no\nk1  0     yes         no     yes\n',
      stderr: '',
    })
  })

  it('prints JSON with the fields that are documented and no others', async () => {
    const withMore = { ...used, secret: goodKey } as KeyStatus
    const { code, stdout } = await status([withMore, old], '-o', 'json')
    expect(code).toBe(0)
    expect(JSON.parse(stdout)).toEqual({ keys: [used, old] })
  })

  it('exits 1 with every problem when the keys do not fit the database', async () => {
    const problems = ['Key k2 is another one.', 'Key k0 is missing.']
    const table = await report([used, lost], problems)
    expect(table.code).toBe(1)
    expect(table.stderr).toBe('Key k2 is another one.\nKey k0 is missing.\n')
    const json = await report([used, lost], problems, '--output=json')
    expect(json.code).toBe(1)
    expect(JSON.parse(json.stdout)).toEqual({ keys: [used, lost] })
  })
})

describe('keys rewrap', () => {
  const good: RecordedRewrap = { keyId: 'k2', rows: 12, unopened: 0, end: 'done', recorded: true }
  const rewrap = (
    report: Partial<RecordedRewrap>,
    options: { readonly isWatched?: boolean } = {},
  ) =>
    onbehalf(['keys', 'rewrap'], {
      cwd: directory,
      ...options,
      actions: {
        rewrapKeys: (onProgress) => {
          onProgress(7, 12)
          return Promise.resolve({ ...good, ...report })
        },
      },
    })
  beforeEach(() => write(fileWith()))

  it('says what it did, and nothing else when nobody watches', async () => {
    expect(await rewrap({})).toEqual({ code: 0, stdout: 'Moved 12 rows to key k2.\n', stderr: '' })
    expect((await rewrap({ rows: 1 })).stdout).toBe('Moved 1 row to key k2.\n')
  })

  it('shows on stderr how far it is when a person watches', async () => {
    const run = await rewrap({}, { isWatched: true })
    expect(run).toEqual({
      code: 0,
      stdout: 'Moved 12 rows to key k2.\n',
      stderr: '\r7 of 12 rows\n',
    })
  })

  it.each([
    [{ end: 'stopped' }, 'Run it again'],
    [{ end: 'outrun' }, 'Put k2 first on every replica'],
    [{ unopened: 1 }, '1 value does not open'],
    [{ unopened: 2 }, '2 values do not open'],
    [{ recorded: false }, 'no record of this'],
  ] satisfies [Partial<RecordedRewrap>, string][])(
    'exits 1 with the reason: %j',
    async (report, said) => {
      const run = await rewrap(report)
      expect(run.code).toBe(1)
      expect(run.stderr).toContain(said)
    },
  )
})

describe('init', () => {
  const read = (name: string): Promise<string> => readFile(join(directory, name), 'utf8')

  it('writes files that pass config check once the variables are set', async () => {
    const run = await onbehalf(['init'], { cwd: directory })
    expect(run).toMatchObject({ code: 0, stderr: '' })
    expect(run.stdout).toContain('onbehalf config check')
    const names = [...(await read('.env.example')).matchAll(/^([A-Z_]+)=/gm)].map(
      ([, name]) => name ?? '',
    )
    expect(names).toContain('ONBEHALF_KEY')
    const unset = await onbehalf(['config', 'check'], { cwd: directory })
    expect(unset.code).toBe(2)
    for (const name of names)
      expect(unset.stderr).toContain(`the environment variable ${name} is not set`)
    expect(unset.stderr.endsWith('Load it first: set -a; . ./.env; set +a\n')).toBe(true)

    // The same value everywhere is the worst that a person in a hurry does.
    const env = Object.fromEntries(names.map((name) => [name, goodKey]))
    expect(await onbehalf(['config', 'check'], { cwd: directory, env })).toMatchObject({
      code: 0,
      stderr: '',
    })
  })

  it('names only variables that .env.example explains', async () => {
    await onbehalf(['init'], { cwd: directory })
    const active = (await read('onbehalf.yaml')).replaceAll(/^\s*#.*$/gm, '')
    const used = [...active.matchAll(/\$\{([A-Z_]+)\}/g)].map(([, name]) => name)
    const explained = [...(await read('.env.example')).matchAll(/^#.*\n([A-Z_]+)=$/gm)].map(
      ([, name]) => name,
    )
    expect(new Set(used)).toEqual(new Set(explained))
  })

  it('writes into another directory, which it makes', async () => {
    const run = await onbehalf(['init', 'a/b'], { cwd: directory })
    expect(run.code).toBe(0)
    expect(await read('a/b/onbehalf.yaml')).toContain('public_url')
  })

  it.each(['onbehalf.yaml', '.env.example'])(
    'leaves %s alone when there is one, and writes nothing',
    async (name) => {
      await write('mine', name)
      const run = await onbehalf(['init'], { cwd: directory })
      expect(run).toMatchObject({ code: 1, stdout: '' })
      expect(run.stderr).toContain(`${name} exists already`)
      expect(run.stderr).toContain('Nothing was written')
      expect(await read(name)).toBe('mine')
      const other = name === 'onbehalf.yaml' ? '.env.example' : 'onbehalf.yaml'
      await expect(read(other)).rejects.toThrow('ENOENT')
    },
  )

  it('replaces with --force, and says so', async () => {
    await write('mine')
    const run = await onbehalf(['init', '--force'], { cwd: directory })
    expect(run.code).toBe(0)
    expect(run.stdout).toContain(`Replaced ${join(directory, 'onbehalf.yaml')}`)
    expect(run.stdout).toContain(`Wrote ${join(directory, '.env.example')}`)
    expect(await read('onbehalf.yaml')).not.toBe('mine')
  })

  it('says when it cannot write', async () => {
    await write('mine', 'file')
    const run = await onbehalf(['init', 'file/below'], { cwd: directory })
    expect(run).toMatchObject({ code: 1, stdout: '' })
    expect(run.stderr).toContain('Cannot write into')
  })
})
