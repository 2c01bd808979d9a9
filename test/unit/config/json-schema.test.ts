import { describe, expect, it } from 'vitest'
import * as z from 'zod'
import { rootNode, type SchemaNode } from '../../../src/config/field-guide.ts'
import { configJsonSchema } from '../../../src/config/json-schema.ts'
import { configFileSchema } from '../../../src/config/schema.ts'
import { credentialWith, fileWith, identityWith } from '../../support/config-files.ts'

const validator = z.fromJSONSchema(configJsonSchema())
const accepts = (file: unknown): boolean => validator.safeParse(file).success

describe('config schema', () => {
  it('is draft 2020-12, closed, and says what settings mean', () => {
    const schema = configJsonSchema()
    expect(schema).toMatchObject({
      $schema: 'https://json-schema.org/draft/2020-12/schema',
      type: 'object',
      additionalProperties: false,
      required: ['public_url', 'encryption', 'identity'],
    })
    const text = JSON.stringify(schema)
    expect(text).toContain('"description"')
    expect(text.includes('standIn')).toBe(false)
  })

  it('accepts files as they are written, with placeholders in every place', () => {
    expect(accepts(fileWith())).toBe(true)
    expect(accepts(credentialWith({ refresh_before: '10m', scopes: ['a'], audience: 'x' }))).toBe(
      true,
    )
    expect(
      accepts({
        ...identityWith({ services: [{ id: 'edge', key: '${EDGE_KEY}', max_age: '${MAX_AGE}' }] }),
        public_url: '${PUBLIC_URL}',
        listen: { port: '${PORT}', metrics: { port: '${file:/port}' } },
        return_to: '${RETURN_TO:-}',
        audit: { when_full: '${WHEN_FULL:-drop}', retention: '${RETENTION}' },
        database: { pool: '${POOL}' },
      }),
    ).toBe(true)
  })

  it.each([
    ['an unknown setting', fileWith({ publc_url: 'x' })],
    ['an unknown mode', credentialWith({ mode: 'x' })],
    ['a missing required setting', fileWith({ encryption: {} })],
    ['a wrong type', fileWith({ listen: { port: 'eighty' } })],
    ['a wrong duration', credentialWith({ refresh_before: '10 minutes' })],
    ['a name of an upstream in capitals', fileWith({ upstreams: { Files: { url: 'https://x' } } })],
  ])('refuses %s', (_name, file) => {
    expect(accepts(file)).toBe(false)
  })

  it('has a stand-in that passes for every setting that must be written', () => {
    const lacking: string[] = []
    const visit = (node: SchemaNode, path: string): void => {
      for (const [name, child] of Object.entries(node.properties ?? {})) {
        const isRequired = node.required?.includes(name) ?? false
        if (isRequired) check(child, `${path}.${name}`)
        visit(child, `${path}.${name}`)
      }
      if (typeof node.additionalProperties === 'object')
        visit(node.additionalProperties, `${path}.*`)
      const lists = [node, ...(node.anyOf ?? [])].flatMap(({ items }) => items ?? [])
      for (const item of lists) {
        if (item.type !== 'object') check(item, `${path}[]`)
        visit(item, `${path}[]`)
      }
    }
    const check = (node: SchemaNode, path: string): void => {
      if (node.standIn === undefined && node.enum === undefined) lacking.push(path)
    }
    visit(rootNode, '')
    expect(lacking).toEqual([])
    const { encryption, identity } = rootNode.properties ?? {}
    const file = {
      public_url: rootNode.properties?.['public_url']?.standIn,
      encryption: encryption?.standIn,
      identity: identity?.standIn,
    }
    expect(configFileSchema.safeParse(file).success).toBe(true)
  })
})
