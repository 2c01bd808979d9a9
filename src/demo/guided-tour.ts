import { setTimeout as wait } from 'node:timers/promises'
import { readActivity, renderActivityTable } from './activity-records.ts'
import { signInAgent } from './agent-sign-in.ts'
import { type DemoSandbox, notesRefreshBeforeSeconds, notesTokenSeconds } from './demo-sandbox.ts'
import type { Narrator } from './narrator.ts'
import { followConnectLink } from './person-at-browser.ts'
import { createScriptedBrowser } from './scripted-browser.ts'
import { tokenExchangeGrant } from './subject-token-exchange.ts'
import { createToolProxy, type ToolAnswer, type ToolCall, type ToolProxy } from './tool-proxy.ts'

const concurrentCalls = 20
const people = ['ada', 'grace', 'linus'] as const
type Name = (typeof people)[number]

/** Does the main job once with the real parts, and checks what it says. */
export async function runGuidedTour(
  sandbox: DemoSandbox,
  brokerUrl: string,
  narrator: Narrator,
): Promise<void> {
  const { identityProvider, notesServer, notes, reports } = sandbox
  const proxy = createCountingProxy(
    createToolProxy({
      brokerUrl,
      serviceKey: sandbox.serviceKey,
      upstreams: { notes: notes.url, reports: reports.url },
    }),
  )
  const bearers = await signInAgents(sandbox)

  function call(person: Name, upstream: string, tool: string, args = {}): Promise<ToolAnswer> {
    return proxy.call({ bearer: bearers[person], upstream, tool, arguments: args })
  }

  async function connect(person: Name, answer: ToolAnswer): Promise<void> {
    const link = answer.kind === 'refused' ? answer.connectUrl : undefined
    if (link === undefined) throw new Error('there is no link to follow')
    const { page, answered } = await followConnectLink(createScriptedBrowser(), link, {
      person,
      account: `notes-${person}`,
      decision: 'allow',
    })
    narrator.say(`${person}'s browser: ${answered.join(' → ')} → ${page.url.pathname}`)
    const { searchParams } = page.url
    narrator.check(
      `${person} is connected`,
      page.url.origin === brokerUrl &&
        searchParams.get('connected') === '1' &&
        searchParams.get('upstream') === 'notes',
    )
  }

  narrator.step("Ada's agent calls a tool at Notes; Ada has never connected Notes")
  const first = await call('ada', 'notes', 'whoami')
  narrator.say(`broker: ${describe(first)}`)
  narrator.check(
    'the call is refused with a link for Ada, never answered with somebody else’s credential',
    isConnectRequired(first, 'not_connected') && first.connectUrl !== undefined,
  )
  narrator.check('Notes was not asked', notes.counts().accepted + notes.counts().refused === 0)

  narrator.step('Ada opens the link: signs in, confirms, says yes at Notes')
  await connect('ada', first)

  narrator.step('The same tool call again, and the same for Grace')
  const adasAnswer = await call('ada', 'notes', 'whoami')
  narrator.say(`Notes to Ada's agent: ${describe(adasAnswer)}`)
  narrator.check("it went out with Ada's own token", accountIn(adasAnswer) === 'notes-ada')
  await call('ada', 'notes', 'write_note', { text: 'For nobody but me.' })
  const graceFirst = await call('grace', 'notes', 'list_notes')
  narrator.check(
    "Grace gets a link of her own, not Ada's notes",
    isConnectRequired(graceFirst, 'not_connected'),
  )
  await connect('grace', graceFirst)
  const gracesAnswer = await call('grace', 'notes', 'whoami')
  narrator.say(`Notes to Grace's agent: ${describe(gracesAnswer)}`)
  narrator.check("Grace's call has Grace's token", accountIn(gracesAnswer) === 'notes-grace')

  narrator.step(
    `Ada's access token is about to end; then ${concurrentCalls} calls at the same moment`,
  )
  await showRefresh()

  async function showRefresh(): Promise<void> {
    let lifeMs = await remainingLifeMs()
    // On a slow machine it may be about to be renewed; then the next one is counted.
    while (lifeMs < (notesTokenSeconds * 1000) / 2) {
      await sleep(lifeMs + 500)
      lifeMs = await remainingLifeMs()
    }
    const before = refreshesOf('notes-ada').length
    // At once when it is due: a moment later the broker renews it by itself, in the background.
    const dueMs = lifeMs - notesRefreshBeforeSeconds * 1000 + 20
    narrator.say(`waiting ${Math.ceil(dueMs / 1000)} s until it is to be renewed`)
    await sleep(dueMs)
    const answers = await Promise.all(
      Array.from({ length: concurrentCalls }, () => call('ada', 'notes', 'whoami')),
    )
    const refreshes = () => refreshesOf('notes-ada').length - before
    // The old token is still good, so that nobody waits for long.
    await becomesTrue(() => refreshes() > 0)
    narrator.say(`refreshes that Notes' authorization server counted: ${refreshes()}`)
    narrator.check(
      `all ${concurrentCalls} calls were answered as Ada`,
      answers.every((answer) => accountIn(answer) === 'notes-ada'),
    )
    narrator.check(
      'one refresh served them all; no refresh token was used twice',
      refreshes() === 1 && notesServer.reuses() === 0,
    )
  }

  async function remainingLifeMs(): Promise<number> {
    const answer = await call('ada', 'notes', 'whoami')
    const endsAt = answer.kind === 'result' ? answer.credentialEndsAt : undefined
    if (endsAt === undefined) throw new Error("Ada's credential has no end")
    return Math.max(0, endsAt.getTime() - Date.now())
  }

  function refreshesOf(account: string) {
    return notesServer.requests({ grantType: 'refresh_token', account })
  }

  narrator.step(
    'Reports takes tokens of the identity provider: nobody is asked, the token is exchanged',
  )
  const report = await call('ada', 'reports', 'monthly_report')
  narrator.say(`Reports to Ada's agent: ${describe(report)}`)
  const reportOwner = accountIn(await call('ada', 'reports', 'whoami'))
  narrator.check('Reports knows her as ada', report.kind === 'result' && reportOwner === 'ada')
  narrator.check(
    'one exchange served both calls (RFC 8693)',
    identityProvider.requests({ grantType: tokenExchangeGrant, account: 'ada' }).length === 1,
  )

  narrator.step('Ada disconnects Notes')
  const revocations = notesServer.revocations()
  const removed = await fetch(`${brokerUrl}/api/v1/connections/notes`, {
    method: 'DELETE',
    headers: { authorization: `Bearer ${bearers.ada}` },
  })
  const after = await call('ada', 'notes', 'whoami')
  narrator.say(`the next call: ${describe(after)}`)
  narrator.check(
    'from then on her calls are refused',
    removed.status === 204 && isConnectRequired(after, 'not_connected'),
  )
  narrator.check(
    "her token is revoked at Notes' authorization server",
    await becomesTrue(() => notesServer.revocations() === revocations + 1),
  )
  narrator.check(
    'Grace is still connected',
    accountIn(await call('grace', 'notes', 'whoami')) === 'notes-grace',
  )

  narrator.step('What the activity log says, read by Linus, the admin')
  await showRecords()

  async function showRecords(): Promise<void> {
    let seen = await readActivity({ brokerUrl, bearer: bearers.linus })
    const byProxy = () => seen.records.filter(({ actor }) => actor.id === 'tool-proxy').length
    await becomesTrue(async () => {
      seen = await readActivity({ brokerUrl, bearer: bearers.linus })
      return byProxy() >= proxy.calls()
    })
    for (const line of renderActivityTable(seen.records)) narrator.say(line)
    const actions = new Set(seen.records.map(({ action, outcome }) => `${action} ${outcome}`))
    narrator.check(
      `the tool proxy asked ${proxy.calls()} times and left as many records`,
      byProxy() === proxy.calls(),
    )
    narrator.check(
      'connect, inject, refresh, acquire and disconnect are all there',
      [
        'connect failure',
        'connect success',
        'inject success',
        'refresh success',
        'acquire success',
        'disconnect success',
      ].every((action) => actions.has(action)),
    )
    narrator.check('no record holds a token, code, secret or key', !sandbox.holdsSecret(seen.text))
  }
}

async function signInAgents({ identityProvider }: DemoSandbox): Promise<Record<Name, string>> {
  const [ada, grace, linus] = await Promise.all(
    people.map((person) =>
      signInAgent({
        issuer: identityProvider.issuer,
        redirectUri: identityProvider.agentRedirectUri,
        person,
      }),
    ),
  )
  return { ada: ada ?? '', grace: grace ?? '', linus: linus ?? '' }
}

function createCountingProxy(proxy: ToolProxy): ToolProxy & { calls(): number } {
  let calls = 0
  return {
    call: (call: ToolCall) => {
      calls += 1
      return proxy.call(call)
    },
    calls: () => calls,
  }
}

function isConnectRequired(
  answer: ToolAnswer,
  reason: string,
): answer is Extract<ToolAnswer, { kind: 'refused' }> {
  return (
    answer.kind === 'refused' &&
    answer.status === 403 &&
    answer.code === 'connect_required' &&
    answer.reason === reason
  )
}

function accountIn(answer: ToolAnswer): string | undefined {
  return answer.kind === 'result' ? answer.account : undefined
}

/** One line. A link is named by its host and path up to the ticket, which is one person's. */
function describe(answer: ToolAnswer): string {
  if (answer.kind === 'result') return `“${answer.text}”`
  const link = answer.connectUrl?.replace(/(?<=\/connect\/.{6}).*/, '…')
  const parts = [`${answer.status} ${answer.code}`, answer.reason, link]
  return parts.filter((part) => part !== undefined).join(' · ')
}

/** A wait that does not keep the process alive when the demonstration was ended meanwhile. */
function sleep(ms: number): Promise<void> {
  return wait(ms, undefined, { ref: false })
}

const patienceMs = 15_000

/** Waits for what follows an answer within seconds: a revocation, a record. */
async function becomesTrue(holds: () => boolean | Promise<boolean>): Promise<boolean> {
  for (const deadline = Date.now() + patienceMs; Date.now() < deadline; await sleep(100)) {
    if (await holds()) return true
  }
  return holds()
}
