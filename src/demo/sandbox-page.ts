import type { ServerResponse } from 'node:http'

/** A choice that one button makes. */
export type PageButton = {
  readonly name: string
  readonly value: string
  readonly label: string
  readonly note?: string
}

export type SandboxPage = {
  readonly title: string
  readonly paragraphs: readonly string[]
  readonly list?: readonly string[]
  readonly form?: { readonly action: string; readonly buttons: readonly PageButton[] }
}

/** Sends a page of a sandbox server: no script, no picture, one form at most. */
export function sendPage(response: ServerResponse, status: number, page: SandboxPage): void {
  response
    .writeHead(status, {
      'content-type': 'text/html; charset=utf-8',
      'cache-control': 'no-store',
      'content-security-policy':
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
      'x-content-type-options': 'nosniff',
    })
    .end(renderPage(page))
}

function renderPage(page: SandboxPage): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escapeHtml(page.title)}</title>
<style>${style}</style>
</head>
<body>
<main>
<p class="sandbox">Sandbox. Made-up people on this machine only; no password is asked.</p>
<h1>${escapeHtml(page.title)}</h1>
${page.paragraphs.map((text) => `<p>${escapeHtml(text)}</p>`).join('\n')}
${page.list === undefined ? '' : `<ul>${page.list.map((text) => `<li>${escapeHtml(text)}</li>`).join('')}</ul>`}
${page.form === undefined ? '' : renderForm(page.form)}
</main>
</body>
</html>
`
}

function renderForm(form: NonNullable<SandboxPage['form']>): string {
  const buttons = form.buttons.map(
    ({ name, value, label, note }) =>
      `<button type="submit" name="${escapeHtml(name)}" value="${escapeHtml(value)}">${escapeHtml(label)}${
        note === undefined ? '' : `<small>${escapeHtml(note)}</small>`
      }</button>`,
  )
  return `<form method="post" action="${escapeHtml(form.action)}">\n${buttons.join('\n')}\n</form>`
}

const entities: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
}

function escapeHtml(text: string): string {
  return text.replace(/[&<>"']/g, (character) => entities[character] ?? '')
}

const style = `
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0; display: grid; place-items: start center; }
main { max-width: 26rem; margin: 3rem 1rem; }
.sandbox { font-size: .85rem; border-left: 3px solid #b58900; padding-left: .6rem; }
form { display: grid; gap: .6rem; }
button { font: inherit; text-align: left; padding: .7rem 1rem; border: 1px solid #888; border-radius: .4rem; cursor: pointer; }
small { display: block; opacity: .7; }
`
