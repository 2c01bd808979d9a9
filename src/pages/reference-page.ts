import { html } from 'hono/html'
import type {
  ApiContent,
  ApiDocument,
  ApiOperation,
  ApiSchema,
  ProblemEntry,
} from '../core/ports/pages.ts'
import { layout } from './layout.ts'
import type { Markup } from './markup.ts'

type Entry = { readonly method: string; readonly path: string; readonly operation: ApiOperation }

/** The API as a page to read: operations by subject, their fields, and every problem code. */
export function referencePage(view: {
  readonly document: ApiDocument
  readonly problems: readonly ProblemEntry[]
}): Promise<string> {
  const { document, problems } = view
  const groups = groupByTag(document)
  const schemas = Object.entries(document.components?.schemas ?? {})
  return layout({
    title: 'API reference',
    viewer: undefined,
    wide: true,
    main: html`<h1>API reference</h1>
<p class="lead">${document.info.title} ${document.info.version}. The same for programs: <a href="/openapi.json">openapi.json</a>.</p>
<nav class="contents" aria-label="Contents"><ul>
${[...groups.keys()].map((tag) => html`<li><a href="#${anchor(tag)}">${tag}</a></li>`)}
<li><a href="#types">Types</a></li><li><a href="#problems">Problems</a></li>
</ul></nav>
${[...groups].map(([tag, entries]) => html`<section id="${anchor(tag)}"><h2>${tag}</h2>${entries.map(operationEntry)}</section>`)}
<section id="types"><h2>Types</h2>
${schemas.map(([name, schema]) => html`<article id="type-${name}"><h3><code>${name}</code></h3>${fields(schema)}</article>`)}
</section>
<section id="problems"><h2>Problems</h2>
<p>Every error is <code>application/problem+json</code> with <code>type</code>, <code>title</code>, <code>status</code>, <code>code</code> and <code>request_id</code>. A 503 says with <code>Retry-After</code> when to ask again.</p>
<article><table><thead><tr><th scope="col" class="number">Status</th><th scope="col">Code, meaning, and what to do</th></tr></thead>
<tbody>${problems.map(({ code, status, title, remedy }) => html`<tr id="problem-${code}"><td class="number">${status}</td><td><code>${code}</code><p>${title}.</p><p class="muted">${remedy}</p></td></tr>`)}</tbody></table></article>
</section>`,
  })
}

function groupByTag(document: ApiDocument): ReadonlyMap<string, readonly Entry[]> {
  const groups = new Map<string, Entry[]>()
  for (const [path, methods] of Object.entries(document.paths ?? {})) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = operation.tags?.[0] ?? 'Other'
      const group = groups.get(tag) ?? []
      group.push({ method, path, operation })
      groups.set(tag, group)
    }
  }
  return groups
}

function operationEntry({ method, path, operation }: Entry): Markup {
  const { summary, description, parameters, requestBody, responses } = operation
  return html`<article id="${anchor(`${method} ${path}`)}">
<h3><span class="method">${method.toUpperCase()}</span> <code>${path}</code></h3>
<p>${summary ?? ''}${description === undefined ? '' : `. ${description}`}</p>
<p class="muted">${callersOf(operation)}</p>
${
  parameters === undefined || parameters.length === 0
    ? html``
    : html`<table><thead><tr><th scope="col">Parameter</th><th scope="col">Type</th><th scope="col">Meaning</th></tr></thead><tbody>
${parameters.map((parameter) => html`<tr><td><code>${parameter.name}</code> <span class="muted">${parameter.in}</span></td><td>${typeOf(parameter.schema)}</td><td>${parameter.description ?? parameter.schema?.description ?? ''}</td></tr>`)}</tbody></table>`
}
${requestBody === undefined ? html`` : html`<p>Body: ${contentOf(requestBody.content)}</p>`}
<table><thead><tr><th scope="col" class="number">Status</th><th scope="col">Answer</th><th scope="col">Body</th></tr></thead><tbody>
${Object.entries(responses).map(([status, response]) => html`<tr><td class="number">${status}</td><td>${response.description.replaceAll('`', '')}</td><td>${contentOf(response.content)}</td></tr>`)}
</tbody></table>
</article>`
}

const callerWords: Readonly<Record<string, string>> = {
  personToken: "a person's access token",
  session: 'a browser session',
  serviceKey: 'a service key',
}

function callersOf({ security }: ApiOperation): string {
  const names = (security ?? []).flatMap((requirement) => Object.keys(requirement))
  if (names.length === 0) return 'For everybody.'
  return `With ${names.map((name) => callerWords[name] ?? name).join(', or ')}.`
}

function contentOf(content: ApiContent | undefined): Markup {
  const entries = Object.entries(content ?? {})
  return html`${entries.map(([type, { schema }]) => html`${typeOf(schema)} <span class="muted">${type}</span>`)}`
}

function fields(schema: ApiSchema): Markup {
  const properties = Object.entries(schema.properties ?? {})
  if (properties.length === 0) return html`<p>${typeOf(schema)}</p>`
  return html`<table><thead><tr><th scope="col">Field</th><th scope="col">Type</th><th scope="col">Meaning</th></tr></thead><tbody>
${properties.map(([name, property]) => html`<tr><td><code>${name}</code>${schema.required?.includes(name) === true ? html`` : html` <span class="muted">optional</span>`}</td><td>${typeOf(property)}</td><td>${(property.description ?? '').replaceAll('`', '')}</td></tr>`)}
</tbody></table>`
}

function typeOf(schema: ApiSchema | undefined): Markup {
  if (schema === undefined) return html``
  if (schema.$ref !== undefined) {
    const name = schema.$ref.split('/').at(-1) ?? ''
    return html`<a href="#type-${name}"><code>${name}</code></a>`
  }
  if (schema.items !== undefined) return html`list of ${typeOf(schema.items)}`
  if (schema.enum !== undefined) {
    const words = schema.enum.map(String)
    return html`<span class="choices">${words.map((word, index) => html`${index === 0 ? '' : ' · '}<code>${word}</code>`)}</span>`
  }
  const type = [schema.type ?? 'any'].flat().join(' or ')
  return html`${type}${schema.format === undefined ? '' : ` (${schema.format})`}`
}

function anchor(text: string): string {
  return text
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .replaceAll(/^-|-$/g, '')
}
