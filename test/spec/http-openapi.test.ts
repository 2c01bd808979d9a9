import { readFile } from 'node:fs/promises'
import { describe, expect, it } from 'vitest'
import { problems } from '../../src/http/problem.ts'
import { createHttpRoom } from '../support/http-room.ts'

type Operation = {
  summary: string
  tags: string[]
  security: Record<string, string[]>[]
  parameters?: { name: string; in: string; required?: boolean }[]
  responses: Record<string, { description: string; content?: Record<string, { schema: object }> }>
}
type Document = {
  openapi: string
  info: { title: string; version: string }
  servers: { url: string }[]
  paths: Record<string, Record<string, Operation>>
  components: { schemas: Record<string, object>; securitySchemes: Record<string, object> }
}

async function load() {
  const { app } = createHttpRoom()
  const response = await app.request('/openapi.json')
  expect(response.status).toBe(200)
  return { app, document: (await response.json()) as Document }
}

function operationsOf(document: Document) {
  return Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  )
}

describe('/openapi.json', () => {
  it('is OpenAPI 3.1 of this broker', async () => {
    const { document } = await load()
    expect(document).toMatchObject({
      openapi: '3.1.0',
      info: { title: 'onbehalf', version: '0.0.0-test' },
      servers: [{ url: 'https://broker.example.com' }],
    })
    expect(Object.keys(document.components.securitySchemes).toSorted()).toEqual([
      'personToken',
      'serviceKey',
      'session',
    ])
  })

  it('lists every route of the API that there is, and none that there is not', async () => {
    const { app, document } = await load()
    const routed = app.routes
      .filter(({ path, method }) => path.startsWith('/api/') && method !== 'ALL')
      .map(({ path, method }) => `${method} ${path.replaceAll(/:(\w+)/g, '{$1}')}`)
    const listed = operationsOf(document)
      .filter(({ path }) => path.startsWith('/api/'))
      .map(({ path, method }) => `${method.toUpperCase()} ${path}`)
    expect(listed.toSorted()).toEqual([...new Set(routed)].toSorted())
    expect(listed).toContain('POST /api/v1/resolve')
  })

  it('says of every operation who may call it, what it answers and how it fails', async () => {
    const { document } = await load()
    for (const { path, method, operation } of operationsOf(document)) {
      const where = `${method} ${path}`
      expect(operation.summary, where).toMatch(/\w/)
      expect(Array.isArray(operation.security), where).toBe(true)
      const statuses = Object.keys(operation.responses)
      expect(
        statuses.some((status) => status.startsWith('2')),
        where,
      ).toBe(true)
      if (path.startsWith('/api/')) {
        expect(operation.security.length, where).toBeGreaterThan(0)
        expect(statuses, where).toContain('401')
      }
      for (const [status, { content }] of Object.entries(operation.responses)) {
        if (Number(status) < 400) continue
        expect(Object.keys(content ?? {}), `${where} ${status}`).toEqual([
          'application/problem+json',
        ])
      }
    }
  })

  it('says where a token in the query is refused, and that a connect may find its upstream unusable', async () => {
    const { document } = await load()
    const api = operationsOf(document).filter(({ path }) => path.startsWith('/api/'))
    for (const { path, method, operation } of api) {
      expect(Object.keys(operation.responses), `${method} ${path}`).toContain('400')
    }
    const connect = document.paths['/api/v1/connections/{upstream}/connect']?.['post']
    expect(connect?.responses['502']?.description).toContain('upstream_misconfigured')
    expect(connect?.responses['503']?.description).toContain('upstream_unavailable')
  })

  it('declares every parameter of a path, and refers only to what it holds', async () => {
    const { document } = await load()
    for (const { path, method, operation } of operationsOf(document)) {
      const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name)
      const declared = (operation.parameters ?? []).filter((one) => one.in === 'path')
      expect(
        declared.map(({ name }) => name),
        `${method} ${path}`,
      ).toEqual(inPath)
      expect(declared.every(({ required }) => required === true)).toBe(true)
    }
    const references = [...JSON.stringify(document).matchAll(/"#\/components\/schemas\/(\w+)"/g)]
    expect(references.length).toBeGreaterThan(10)
    for (const [, name] of references)
      expect(document.components.schemas).toHaveProperty(name ?? '')
  })
})

describe('Patterns of /openapi.json (JSON Schema 2020-12 §6.3.3)', () => {
  function patternsOf(value: unknown): readonly string[] {
    if (typeof value !== 'object' || value === null) return []
    return Object.entries(value).flatMap(([name, inner]) =>
      name === 'pattern' && typeof inner === 'string' ? [inner] : patternsOf(inner),
    )
  }

  it('are of the standard: no flags, and each fits something that the broker takes', async () => {
    const { document } = await load()
    const patterns = [...new Set(patternsOf(document))]
    expect(patterns.length).toBeGreaterThan(2)
    const taken = ['files', 'https://login.example.com', '0194C0DE-0000-7000-8000-000000000001']
    for (const pattern of patterns) {
      const fits = new RegExp(pattern, 'u')
      expect(
        taken.some((value) => fits.test(value)),
        pattern,
      ).toBe(true)
      expect(fits.test('\n'), pattern).toBe(false)
    }
  })
})

describe('docs/rest.md', () => {
  it('explains every route of the API', async () => {
    const { document } = await load()
    const text = await readFile(new URL('../../docs/rest.md', import.meta.url), 'utf8')
    const headings = new Set(
      [...text.matchAll(/^### `([A-Z]+ [^`]+)`$/gm)].map(([, route]) => route),
    )
    const routes = operationsOf(document)
      .filter(({ path }) => path.startsWith('/api/'))
      .map(({ path, method }) => `${method.toUpperCase()} ${path}`)
    expect(headings).toEqual(new Set(routes))
  })
})

describe('/docs', () => {
  it('is the same document for people: every operation and every problem code', async () => {
    const { app, document } = await load()
    const response = await app.request('/docs')
    expect(response.headers.get('content-type')).toContain('text/html')
    const text = await response.text()
    for (const { path } of operationsOf(document)) expect(text).toContain(`<code>${path}</code>`)
    const rows = [
      ...text.matchAll(/<tr id="problem-(\w+)">.*?<p class="muted">([^<]+)<\/p><\/td><\/tr>/g),
    ]
    expect(rows.map(([, code]) => code)).toEqual(Object.keys(problems))
    for (const [, code, remedy] of rows) expect(remedy, code).toMatch(/^[A-Z].+\.$/)
    expect(text).not.toMatch(/<script|https?:\/\/(?!broker)/)
  })
})
