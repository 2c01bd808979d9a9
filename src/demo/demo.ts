import { type DemoSandbox, notesTokenSeconds, startDemoSandbox } from './demo-sandbox.ts'
import { runGuidedTour } from './guided-tour.ts'
import { createNarrator } from './narrator.ts'

/** Starts the real broker on a parsed configuration file, before its defaults. */
export type StartBroker = (config: unknown) => Promise<RunningBroker>
export type RunningBroker = { readonly url: string; stop(): Promise<void> }

export type DemoOptions = {
  /** End after the run, instead of staying up. */
  readonly once: boolean
  /** The broker's. 0: any free one; absent: 8080, if it can be had. */
  readonly port?: number | undefined
  /** Takes one line. */
  readonly out: (line: string) => void
  readonly startBroker: StartBroker
  /** Ends the demonstration wherever it is. */
  readonly signal: AbortSignal
}

/**
 * Shows the main job on loopback with no configuration: the broker, a sandbox identity provider, a sandbox authorization server
 * and two sandbox MCP upstreams, started, used and ended. Gives the exit code: 0 when everything held that it says, else 1.
 */
export async function runDemo(options: DemoOptions): Promise<number> {
  const { out, signal } = options
  const narrator = createNarrator(out)
  out('onbehalf demo: made-up people, everything on this machine, nothing is kept.')
  const stops: (() => Promise<void>)[] = []
  try {
    const sandbox = await startDemoSandbox({ port: options.port })
    stops.push(() => sandbox.stop())
    const broker = await options.startBroker(sandbox.config)
    stops.push(() => broker.stop())
    introduce(sandbox, broker, out)
    await Promise.race([runGuidedTour(sandbox, broker.url, narrator), whenAborted(signal)])
    if (signal.aborted) throw new Error('it was ended before all was shown')
    conclude(narrator.held(), narrator.failed(), out)
    if (!options.once) {
      inviteToTry(sandbox, broker, out)
      await whenAborted(signal)
    }
  } catch (error) {
    narrator.check(error instanceof Error ? error.message : 'something else was thrown', false)
    conclude(narrator.held(), narrator.failed(), out)
  } finally {
    // The broker before the servers that it revokes tokens at.
    for (const stop of stops.toReversed()) await stop()
  }
  return narrator.failed().length === 0 ? 0 : 1
}

function whenAborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve()
  return new Promise((resolve) => {
    signal.addEventListener('abort', () => resolve(), { once: true })
  })
}

function introduce(sandbox: DemoSandbox, broker: RunningBroker, out: (line: string) => void): void {
  out('')
  out(`   broker               ${broker.url}`)
  out(
    `   identity provider    ${sandbox.identityProvider.issuer}  (ada, grace; linus is the admin)`,
  )
  out(`   Notes, MCP           ${sandbox.notes.url}  (wants each person's own token)`)
  out(
    `   its authorization    ${sandbox.notesServer.issuer}  (tokens live for ${notesTokenSeconds} s here)`,
  )
  out(`   Reports, MCP         ${sandbox.reports.url}  (takes exchanged tokens)`)
}

function conclude(held: number, failed: readonly string[], out: (line: string) => void): void {
  out('')
  if (failed.length === 0) {
    out(`All ${held} checks held.`)
    return
  }
  out(`${failed.length} of ${held + failed.length} checks did not hold:`)
  for (const claim of failed) out(`   ${claim}`)
}

function inviteToTry(
  { identityProvider, serviceKey }: DemoSandbox,
  { url }: RunningBroker,
  out: (line: string) => void,
): void {
  const lines = [
    '',
    'It stays up until Ctrl-C. Open:',
    `   ${url}/connections   connect Notes yourself: one click a sign-in, no password`,
    `   ${url}/activity      the records; sign in as linus`,
    `   ${url}/docs          the API`,
    '',
    "Try, in another terminal. Ada's access token, as her agent would have it:",
    `   TOKEN=$(curl -s '${identityProvider.issuer}/sandbox/access-token?person=ada')`,
    'What a tool proxy asks on every call (the key is of this sandbox only):',
    `   curl -s ${url}/api/v1/resolve -H 'Authorization: Bearer ${serviceKey}' \\`,
    `     -H 'Content-Type: application/json' -d "{\\"upstream\\":\\"notes\\",\\"subject_token\\":\\"$TOKEN\\"}"`,
    'Ada has disconnected, so it gives her a link: open it, connect, ask again. With reports in place of notes it works at once.',
    "Ada's connections, and a link to connect:",
    `   curl -s ${url}/api/v1/connections -H "Authorization: Bearer $TOKEN"`,
    `   curl -s -X POST ${url}/api/v1/connections/notes/connect -H "Authorization: Bearer $TOKEN" -H 'Content-Type: application/json' -d '{}'`,
    'The records, as the admin:',
    `   ADMIN=$(curl -s '${identityProvider.issuer}/sandbox/access-token?person=linus')`,
    `   curl -s '${url}/api/v1/activity?limit=5' -H "Authorization: Bearer $ADMIN"`,
    'An MCP client of your own (it registers at the sandbox and signs you in there) takes this as a server:',
    `   ${url}/mcp/notes`,
    'The same by command, signed in as whom you choose; and what a client without a token sees:',
    `   npx onbehalf login --url ${url} && npx onbehalf activity list`,
    `   npx onbehalf smoke ${url}/mcp/notes`,
  ]
  for (const line of lines) out(line)
}
