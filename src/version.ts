import { readFileSync } from 'node:fs'

/** Of the package. */
export const version: string = readVersion()

function readVersion(): string {
  const text = readFileSync(new URL('../package.json', import.meta.url), 'utf8')
  const manifest = JSON.parse(text) as { version: string }
  return manifest.version
}
