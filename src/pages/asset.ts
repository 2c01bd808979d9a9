import { hash } from 'node:crypto'
import type { PageAsset } from '../core/ports/pages.ts'

/** Something that pages load, under a path that holds a hash of its text: a new text is seen at once. */
export function asset(
  name: string,
  extension: string,
  contentType: string,
  text: string,
): PageAsset {
  const digest = hash('sha256', text, 'hex').slice(0, 12)
  return { path: `/assets/${name}-${digest}.${extension}`, contentType, text }
}
