import { asset } from './asset.ts'

const text = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">
<rect width="32" height="32" rx="8" fill="#2350c8"/>
<circle cx="12" cy="16" r="5" fill="none" stroke="#fff" stroke-width="3"/>
<path d="M17 16h9m-4 0v4" fill="none" stroke="#fff" stroke-width="3" stroke-linecap="round"/>
</svg>
`

/** A key, for the tab of the browser. */
export const icon = asset('onbehalf', 'svg', 'image/svg+xml', text)
