import { describe, expect, it } from 'vitest'
import { configOf, fileWith, problemsOf } from '../../support/config-files.ts'

const url = 'https://siem.example.com/hook'
const destinations = (...list: object[]) => fileWith({ audit: { destinations: list } })

describe('audit.destinations', () => {
  it('says where records are sent, and where that stands', async () => {
    const file = destinations(
      { kind: 'webhook', url, secret: '${HOOK_SECRET:-whsec_x}' },
      { kind: 'otlp', url: 'http://collector.monitoring:4318', allow_private_network: true },
      { kind: 'otlp', url: 'http://127.0.0.1:4318' },
    )
    const { audit } = await configOf(file)
    expect(audit.destinations).toMatchObject([
      { kind: 'webhook', url, allowPrivateNetwork: false, setting: 'audit.destinations[0]' },
      { kind: 'otlp', secret: undefined, allowPrivateNetwork: true },
      { url: 'http://127.0.0.1:4318', allowPrivateNetwork: false },
    ])
    expect(audit.destinations[0]?.secret?.reveal()).toBe('whsec_x')
  })

  it.each<[string, object[], string]>([
    [
      'plain http elsewhere',
      [{ kind: 'webhook', url: 'http://siem.example.com' }],
      'audit.destinations[0].url',
    ],
    [
      'the same twice',
      [
        { kind: 'webhook', url },
        { kind: 'webhook', url },
      ],
      'audit.destinations[1]',
    ],
    ['an unknown kind', [{ kind: 'syslog', url }], 'audit.destinations[0].kind'],
    ['no address', [{ kind: 'otlp' }], 'audit.destinations[0].url'],
  ])('%s is refused, naming the field', async (_what, list, path) => {
    expect((await problemsOf(destinations(...list))).map((problem) => problem.path)).toEqual([path])
  })
})
