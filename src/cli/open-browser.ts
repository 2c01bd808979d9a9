import { spawn } from 'node:child_process'
import type { CliEnvironment } from './services.ts'

/** Opens a page in the person's own browser. False where there is no screen to show it on. */
export function openBrowser(
  url: URL,
  { platform, env }: { readonly platform: NodeJS.Platform; readonly env: CliEnvironment },
): boolean {
  const command = commandFor(platform, env)
  if (command === undefined) return false
  const [program, ...first] = command
  // No shell: the URL is a server's own words.
  const child = spawn(program, [...first, url.href], { detached: true, stdio: 'ignore' })
  child.on('error', () => {})
  child.unref()
  return true
}

function commandFor(
  platform: NodeJS.Platform,
  env: CliEnvironment,
): readonly [string, ...string[]] | undefined {
  if (platform === 'darwin') return ['open']
  if (platform === 'win32') return ['rundll32', 'url.dll,FileProtocolHandler']
  // Without a screen it would be a browser of text, in the terminal that waits here.
  const hasScreen = [env['DISPLAY'], env['WAYLAND_DISPLAY']].some((value) => (value ?? '') !== '')
  return hasScreen ? ['xdg-open'] : undefined
}
