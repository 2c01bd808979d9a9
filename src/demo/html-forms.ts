export type HtmlForm = {
  readonly action: URL
  readonly method: 'get' | 'post'
  /** What a browser sends besides the button: hidden and filled-in fields, in the page's order. */
  readonly fields: readonly (readonly [name: string, value: string])[]
  readonly buttons: readonly HtmlButton[]
}

export type HtmlButton = {
  readonly name: string | undefined
  readonly value: string
  readonly text: string
}

type Tag = {
  readonly name: string
  readonly attributes: ReadonlyMap<string, string>
  readonly end: number
}

/** Reads the forms of a page as far as well-formed pages of our own and of sandbox servers need; no script, no nesting. */
export function readForms(html: string, pageUrl: URL): readonly HtmlForm[] {
  const withoutComments = html.replace(/<!--[^]*?-->/g, '')
  const forms = withoutComments.matchAll(/<form\b([^>]*)>([^]*?)<\/form>/gi)
  return [...forms].map(([, attributes = '', content = '']) => {
    const form = readAttributes(attributes)
    const inputs = readTags(content, 'input')
    return {
      action: new URL(form.get('action') ?? '', pageUrl),
      method: form.get('method')?.toLowerCase() === 'post' ? 'post' : 'get',
      fields: inputs.flatMap(readField),
      buttons: [...readButtons(content), ...inputs.flatMap(readSubmit)],
    }
  })
}

function readTags(html: string, name: string): readonly Tag[] {
  const tags = html.matchAll(new RegExp(`<${name}\\b((?:[^>"']|"[^"]*"|'[^']*')*)>`, 'gi'))
  return [...tags].map((tag) => ({
    name,
    attributes: readAttributes(tag[1] ?? ''),
    end: tag.index + tag[0].length,
  }))
}

function readAttributes(text: string): ReadonlyMap<string, string> {
  const pairs = text.matchAll(/([^\s=/"'>]+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+)))?/g)
  return new Map(
    [...pairs].map(([, name = '', double, single, bare]) => [
      name.toLowerCase(),
      decodeEntities(double ?? single ?? bare ?? ''),
    ]),
  )
}

const unsent = ['submit', 'button', 'reset', 'image', 'file']

function readField({ attributes }: Tag): readonly (readonly [string, string])[] {
  const name = attributes.get('name')
  const type = attributes.get('type')?.toLowerCase() ?? 'text'
  const unchecked = (type === 'checkbox' || type === 'radio') && !attributes.has('checked')
  if (name === undefined || attributes.has('disabled') || unsent.includes(type) || unchecked)
    return []
  return [[name, attributes.get('value') ?? (type === 'checkbox' ? 'on' : '')]]
}

function readSubmit({ attributes }: Tag): readonly HtmlButton[] {
  if (attributes.get('type')?.toLowerCase() !== 'submit') return []
  const value = attributes.get('value') ?? ''
  return [{ name: attributes.get('name'), value, text: value }]
}

function readButtons(html: string): readonly HtmlButton[] {
  return readTags(html, 'button')
    .filter(({ attributes }) => (attributes.get('type')?.toLowerCase() ?? 'submit') === 'submit')
    .map(({ attributes, end }) => ({
      name: attributes.get('name'),
      value: attributes.get('value') ?? '',
      text: readText(html.slice(end, html.indexOf('</button', end))),
    }))
}

function readText(html: string): string {
  return decodeEntities(html.replace(/<[^>]*>/g, ' '))
    .replace(/\s+/g, ' ')
    .trim()
}

const named: Readonly<Record<string, string>> = {
  amp: '&',
  apos: "'",
  gt: '>',
  lt: '<',
  nbsp: ' ',
  quot: '"',
}

function decodeEntities(text: string): string {
  return text.replace(/&(?:#x([0-9a-f]+)|#([0-9]+)|([a-z]+));/gi, (entity, hex, decimal, name) => {
    if (hex !== undefined) return String.fromCodePoint(Number.parseInt(String(hex), 16))
    if (decimal !== undefined) return String.fromCodePoint(Number(decimal))
    return named[String(name)] ?? entity
  })
}
