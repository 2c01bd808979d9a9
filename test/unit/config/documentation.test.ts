import { readFile } from 'node:fs/promises'
import { describe, expect, it } from 'vitest'
import { nodeAt, rootNode, type SchemaNode } from '../../../src/config/field-guide.ts'
import { presetNames } from '../../../src/config/presets/index.ts'
import { onbehalf } from '../../support/cli.ts'
import { goodKey } from '../../support/config-files.ts'

const page = await readFile('docs/configuration.md', 'utf8')

/** Names of all settings that hold a value, such as `listen.port` or `services[].max_age`. */
function leaves(node: SchemaNode, path: string): string[] {
  const list = [node, ...(node.anyOf ?? [])].flatMap(({ items }) => items ?? [])[0]
  const inner = node.properties ?? list?.properties
  if (inner !== undefined) {
    return Object.entries(inner).flatMap(([name, child]) => leaves(child, `${path}.${name}`))
  }
  const values = node.additionalProperties
  return typeof values === 'object' && values.properties !== undefined
    ? leaves(values, path)
    : [path.slice(1)]
}

describe('docs/configuration.md', () => {
  it.each(leaves(rootNode, ''))('explains %s', (path) => {
    const names = path.split('.')
    // Tables name settings as far as their heading does not.
    const written = names.map((_, index) => names.slice(index).join('.'))
    const isThere = written.some((name) => new RegExp(`\`(?:[a-z_.[\\]]+\\.)?${name}\``).test(page))
    expect(isThere).toBe(true)
  })

  it('names the defaults that the schema has', () => {
    const plain: readonly (readonly [path: string[], row: RegExp])[] = [
      [['listen', 'host'], /`listen\.host` \| text, `(.*?)`/],
      [['listen', 'port'], /`listen\.port` \| number, `(.*?)`/],
      [['data_dir'], /`data_dir` \| path, `(.*?)`/],
      [['database', 'pool'], /`database\.pool` \| number, `(.*?)`/],
      [['identity', 'login', 'session'], /`session` \| duration, `(.*?)`/],
      [['upstreams', 'x', 'kind'], /`kind` \| `(.*?)`/],
      [['upstreams', 'x', 'credential', 'refresh_before'], /`refresh_before` \| duration, `(.*?)`/],
      [
        ['upstreams', 'x', 'credential', 'default_lifetime'],
        /`default_lifetime` \| duration, `(.*?)`/,
      ],
      [['upstreams', 'x', 'credential', 'header'], /`header` \| text, `(.*?)`/],
      [['upstreams', 'x', 'credential', 'header_format'], /`header_format` \| text, `(.*?)`/],
      [['audit', 'retention'], /`audit\.retention` \| duration, `(.*?)`/],
      [['audit', 'when_full'], /`audit\.when_full` \| `(.*?)`/],
    ]
    for (const [path, row] of plain) {
      expect({ path, default: row.exec(page)?.[1] }).toEqual({
        path,
        default: String(nodeAt(path)?.default),
      })
    }
  })

  it.each(presetNames)('explains the preset %s', (name) => {
    expect(page).toMatch(new RegExp(`^\\| \`${name}\` \\|`, 'm'))
  })

  it('leads nowhere wrong', () => {
    const headings = [...page.matchAll(/^#+ (.*)$/gm)].map(([, text = '']) =>
      text
        .toLowerCase()
        .replaceAll(/[^\w\- ]/g, '')
        .replaceAll(' ', '-'),
    )
    const links = [...page.matchAll(/\]\(#([^)]*)\)/g)].map(([, anchor]) => anchor)
    expect(links.length).toBeGreaterThan(5)
    expect(links.filter((anchor) => !headings.includes(anchor ?? ''))).toEqual([])
  })
})

describe.each(['token-exchange', 'entra-obo', 'oauth-connect'])('examples/%s.yaml', (name) => {
  const file = `examples/${name}.yaml`

  it('passes config check, without a warning, once its variables are set', async () => {
    const text = await readFile(file, 'utf8')
    const named =
      /# Variables: ((?:.|\n#)*?)\n# Check/.exec(text)?.[1]?.match(/[A-Z][A-Z_]+/g) ?? []
    const used = [...text.matchAll(/\$\{([A-Z_]+)\}/g)].map(([, variable]) => variable)
    expect(new Set(named)).toEqual(new Set(used))

    const env = Object.fromEntries(named.map((variable) => [variable, valueFor(variable)]))
    const run = await onbehalf(['config', 'check', '--config', file], { cwd: process.cwd(), env })
    expect(run.stderr).toBe('')
    expect(run.code).toBe(0)
  })

  it('is what the page shows', async () => {
    const text = await readFile(file, 'utf8')
    const credentials = [...text.matchAll(/^ {6}(client_id|audience|scopes|mode|preset): (.*)$/gm)]
    expect(credentials.length).toBeGreaterThan(2)
    for (const [, setting, value] of credentials) expect(page).toContain(`${setting}: ${value}`)
  })
})

function valueFor(variable: string): string {
  return variable.endsWith('_ID')
    ? '11111111-2222-3333-4444-555555555555'.replace('1', String(variable.length % 10))
    : goodKey
}
