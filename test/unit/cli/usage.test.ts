import { describe, expect, it } from 'vitest'
import { onbehalf } from '../../support/cli.ts'

const commands = [
  'demo',
  'init',
  'config check',
  'config schema',
  'migrate',
  'serve',
  'keys generate',
  'keys status',
  'connections list',
  'connections connect',
  'connections disconnect',
  'activity list',
  'activity show',
  'activity tail',
  'activity summary',
  'activity export',
  'activity verify',
  'login',
  'smoke',
]

describe('onbehalf', () => {
  it.each([['--help'], ['-h'], ['help']])(
    '%s lists every command and what to do first',
    async (word) => {
      const { code, stdout, stderr } = await onbehalf([word])
      expect(code).toBe(0)
      expect(stderr).toBe('')
      for (const command of commands) expect(stdout).toContain(`  ${command} `)
      expect(stdout).toContain('onbehalf demo')
      expect(stdout).toContain('Exit codes: 0 good, 1 the check or call failed, 2 wrong usage')
    },
  )

  it('without a command is wrong usage', async () => {
    const { code, stdout, stderr } = await onbehalf([])
    expect(code).toBe(2)
    expect(stdout).toBe('')
    expect(stderr).toContain('Usage: onbehalf <command>')
  })

  it('--version says the version', async () => {
    expect(await onbehalf(['--version'])).toEqual({ code: 0, stdout: '1.2.3\n', stderr: '' })
  })

  it.each(commands)(
    '%s --help says what it does, its options and what comes next',
    async (command) => {
      const words = command.split(' ')
      const asked = await onbehalf([...words, '--help'])
      expect(asked.code).toBe(0)
      expect(asked.stdout).toContain(`Usage: onbehalf ${command}`)
      expect(asked.stdout.length).toBeGreaterThan(150)
      expect(await onbehalf(['help', ...words])).toEqual(asked)
    },
  )

  it.each(['keys', 'config', 'connections', 'activity'])(
    '%s alone shows its commands',
    async (group) => {
      const alone = await onbehalf([group])
      expect(alone).toMatchObject({ code: 2, stdout: '' })
      expect(alone.stderr).toContain(`onbehalf ${group} <command>`)
      const helped = await onbehalf([group, '--help'])
      expect(helped).toMatchObject({ code: 0, stdout: alone.stderr })
    },
  )

  it.each([
    ['srve', 'serve'],
    ['miggrate', 'migrate'],
    ['conections list', 'connections'],
    ['config chek', 'config check'],
    ['keys generat', 'keys generate'],
  ])('%s: did you mean %s?', async (typed, near) => {
    const { code, stderr } = await onbehalf(typed.split(' '))
    expect(code).toBe(2)
    expect(stderr).toContain(
      `Unknown command ${typed.split(' ').slice(0, near.split(' ').length).join(' ')}.`,
    )
    expect(stderr).toContain(`Did you mean onbehalf ${near}?`)
  })

  it('an unknown command that is near none names none, and repeats nothing odd', async () => {
    const { code, stderr } = await onbehalf(['\u001b[2Jxyzzyxyzzy'])
    expect(code).toBe(2)
    expect(stderr).not.toContain('\u001b')
    expect(stderr).not.toContain('Did you mean')
  })

  it.each([
    [['serve', '--confg', 'x'], /Unknown option --confg\. Did you mean --config\?/],
    [['serve', '--config'], /--config needs a value: --config FILE/],
    [['serve', '--config='], /--config needs a value/],
    [['serve', '--config', 'a', '--config', 'b'], /once only/],
    [['serve', 'extra'], /takes no arguments/],
    [['keys', 'status', '-x'], /Unknown option -x/],
    [['keys', 'status', '-o', 'xml'], /-o must be one of table, json/],
    [['demo', '--once=yes'], /--once takes no value/],
    [['demo', '--port', '70000'], /--port must be a whole number from 0 to 65535/],
    [['demo', '--port', 'x'], /--port/],
    [['init', 'a', 'b'], /takes \[DIR\] only/],
    [['connections', 'connect'], /<NAME> is missing/],
    [['activity', 'show'], /<ID> is missing/],
  ])('%j is wrong usage: exit 2, with the usage of the command', async (argv, said) => {
    const { code, stdout, stderr } = await onbehalf(argv)
    expect(code).toBe(2)
    expect(stdout).toBe('')
    expect(stderr).toMatch(said)
    expect(stderr).toContain('Usage: onbehalf ')
    expect(stderr).toContain('--help')
  })
})

describe('onbehalf demo', () => {
  it.each([
    [[], { once: false, port: undefined }],
    [['--once'], { once: true, port: undefined }],
    [['--port', '0', '--once'], { once: true, port: 0 }],
    [['--port=8080'], { once: false, port: 8080 }],
  ])('%j', async (argv, expected) => {
    const asked: unknown[] = []
    const { code, stdout } = await onbehalf(['demo', ...argv], {
      services: {
        demo: (options, output) => {
          asked.push(options)
          output.out('shown\n')
          return Promise.resolve(1)
        },
      },
    })
    expect(asked).toEqual([expected])
    expect({ code, stdout }).toEqual({ code: 1, stdout: 'shown\n' })
  })
})
