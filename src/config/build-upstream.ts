import type { Upstream, UpstreamCredential } from '../core/upstream.ts'
import { readClientAuthentication } from './client-authentication.ts'
import { presets } from './presets/index.ts'
import type { Preset } from './presets/preset.ts'
import type { Path, Report } from './problem.ts'
import type { ConfigFile } from './schema.ts'
import {
  type FileCredential,
  type FileUpstream,
  impliedCredential,
  laterModes,
} from './schema-upstream.ts'
import { requireSafeTransport } from './transport-rule.ts'

export function buildUpstreams(file: ConfigFile, report: Report): Map<string, Upstream> {
  const upstreams = new Map<string, Upstream>()
  for (const [name, upstream] of Object.entries(file.upstreams)) {
    upstreams.set(name, buildUpstream({ name, upstream, file, report }))
  }
  return upstreams
}

type Job = {
  readonly name: string
  readonly upstream: FileUpstream
  readonly file: ConfigFile
  readonly report: Report
}

function buildUpstream(job: Job): Upstream {
  const { name, upstream, report } = job
  const path = ['upstreams', name]
  const allow = allowOf(job)
  requireSafeTransport(upstream.url, [...path, 'url'], allow, report)
  requireSafeTransport(upstream.external_url, [...path, 'external_url'], allow, report)
  if (allow.allowed) {
    report.warning(allow.setting, 'lets requests for this upstream reach private addresses')
  }
  checkAudiences(job)
  return {
    name,
    displayName: upstream.display_name ?? name,
    url: upstream.url,
    kind: upstream.kind,
    allow: upstream.allow,
    externalUrl: upstream.external_url,
    allowPrivateNetwork: upstream.allow_private_network,
    timeouts: {
      connectMs: timerMs(upstream.timeouts.connect),
      headMs: timerMs(upstream.timeouts.head),
      idleMs: timerMs(upstream.timeouts.idle),
    },
    credential: buildCredential(job),
  }
}

// Node runs a timer that is longer than 24.8 days at once.
const longestTimerMs = 2 ** 31 - 1

function timerMs(seconds: number): number {
  return Math.min(seconds * 1000, longestTimerMs)
}

/** What a token for this upstream may be for besides the issuer's audiences; none of it may be what ID tokens are for. */
function checkAudiences({ name, upstream, file, report }: Job): void {
  const clientId = file.identity.login?.client_id
  if (clientId === undefined) return
  const clientIdPath = ['identity', 'login', 'client_id']
  const externalUrlPath = ['upstreams', name, 'external_url']
  const message = 'so ID tokens would pass as access tokens'
  if (upstream.external_url === clientId) {
    report.problem(
      externalUrlPath,
      `is an accepted audience and also identity.login.client_id, ${message}`,
      [externalUrlPath, clientIdPath],
    )
  }
  const door = upstream.kind === 'mcp' ? 'mcp' : 'proxy'
  if (clientId === `${file.public_url}/${door}/${name}`) {
    report.problem(clientIdPath, `is also the audience of upstreams.${name}, ${message}`, [
      clientIdPath,
      ['public_url'],
      ['upstreams', name, 'kind'],
    ])
  }
}

function allowOf({ name, upstream }: Job): { allowed: boolean; setting: Path } {
  return {
    allowed: upstream.allow_private_network,
    setting: ['upstreams', name, 'allow_private_network'],
  }
}

function buildCredential(job: Job): UpstreamCredential {
  const { name, upstream, report } = job
  const path = ['upstreams', name, 'credential']
  const written = upstream.credential ?? impliedCredential
  const preset = written.preset === undefined ? undefined : presets[written.preset]
  const endpoints = endpointsOf(written, preset)

  checkEndpoints(job, endpoints, path)
  if (written.idp !== undefined && written.mode !== 'id_jag') {
    report.warning([...path, 'idp'], `is not used with mode: ${written.mode}`)
  }
  if (upstream.credential === undefined && upstream.kind === 'http') {
    report.problem([...path, 'mode'], 'is required for an http upstream', [
      path,
      ['upstreams', name, 'kind'],
    ])
  } else if (isLater(written.mode)) {
    // Nothing else about it: what it would need is of no use to anybody yet.
    report.problem([...path, 'mode'], `${written.mode} is not available in this version yet`)
  } else if (written.mode === 'user_key') {
    warnOfUnused(written, path, report)
  } else {
    checkServer(job, endpoints, path)
    checkSubjectToken(job, written, path)
  }
  return {
    mode: isLater(written.mode) ? 'oauth_connect' : written.mode,
    discovery: discoveryOf(job, written),
    ...endpoints,
    clientId: written.client_id ?? '',
    clientAuthentication: readClientAuthentication(
      {
        ...written,
        client_auth:
          written.client_auth ??
          (written.client_secret === undefined ? undefined : preset?.clientAuth),
      },
      path,
      report,
    ),
    scopes: written.scopes,
    stepUpScopes: written.step_up_scopes,
    authorizationParameters: addedParameters(
      { ...preset?.authorizationParameters, ...written.authorization_parameters },
      ownAuthorizationParameters,
      [...path, 'authorization_parameters'],
      report,
    ),
    tokenParameters: addedParameters(
      written.token_parameters,
      ownTokenParameters,
      [...path, 'token_parameters'],
      report,
    ),
    resource: resourceOf(upstream, written, preset),
    audiences: written.audience ?? [],
    subjectTokenType: written.subject_token_type,
    tokenAnswerMember: preset?.tokenAnswerMember,
    refreshBeforeSeconds: written.refresh_before,
    defaultLifetimeSeconds: written.default_lifetime,
    refreshReuse: written.refresh_reuse ?? preset?.refreshReuse ?? { kind: 'strict' },
    header: written.header,
    headerFormat: written.header_format,
  }
}

const unusedWithKeys = [
  'preset',
  'issuer',
  'authorization_endpoint',
  'token_endpoint',
  'revocation_endpoint',
  'client_id',
  'client_secret',
  'private_key',
  'audience',
] as const satisfies readonly (keyof FileCredential)[]

/** Nobody is asked for a key that the person has stored. */
function warnOfUnused(written: FileCredential, path: Path, report: Report): void {
  for (const field of unusedWithKeys) {
    if (written[field] !== undefined) {
      report.warning([...path, field], 'is not used with mode: user_key')
    }
  }
}

function isLater(mode: FileCredential['mode']): mode is (typeof laterModes)[number] {
  return laterModes.some((later) => later === mode)
}

type Endpoints = Pick<
  UpstreamCredential,
  'issuer' | 'authorizationEndpoint' | 'tokenEndpoint' | 'revocationEndpoint'
>

/** A written value wins over the preset; a written issuer says all endpoints itself. Presets know the servers people connect at. */
function endpointsOf(written: FileCredential, preset: Preset | undefined): Endpoints {
  const known =
    written.issuer === undefined && written.mode === 'oauth_connect' ? preset : undefined
  return {
    issuer: written.issuer,
    authorizationEndpoint: written.authorization_endpoint ?? known?.authorizationEndpoint,
    tokenEndpoint: written.token_endpoint ?? known?.tokenEndpoint,
    revocationEndpoint: written.revocation_endpoint ?? known?.revocationEndpoint,
  }
}

function checkEndpoints(job: Job, endpoints: Endpoints, path: Path): void {
  const allow = allowOf(job)
  const urls = {
    issuer: endpoints.issuer,
    authorization_endpoint: endpoints.authorizationEndpoint,
    token_endpoint: endpoints.tokenEndpoint,
    revocation_endpoint: endpoints.revocationEndpoint,
  }
  for (const [field, url] of Object.entries(urls)) {
    requireSafeTransport(url, [...path, field], allow, job.report)
  }
}

function checkServer(job: Job, endpoints: Endpoints, path: Path): void {
  const { upstream, file, report } = job
  const written = upstream.credential ?? impliedCredential
  const { mode } = written
  const at = (field: string): Path => [...path, field]
  const serverReads = ['mode', 'preset', 'issuer', 'token_endpoint'].map(at)

  if (mode === 'oauth_connect' && written.client_id === undefined) {
    const reads = [at('mode'), at('client_id'), ['upstreams', job.name, 'kind']]
    if (upstream.kind === 'mcp') return checkDiscovery(job, endpoints, path)
    report.problem(at('client_id'), 'is required for oauth_connect on an http upstream', reads)
  }
  if (endpoints.issuer === undefined && endpoints.tokenEndpoint === undefined) {
    report.problem(at('token_endpoint'), `or issuer is required for ${mode}`, serverReads)
  }
  if (mode === 'oauth_connect') {
    if (endpoints.issuer === undefined && endpoints.authorizationEndpoint === undefined) {
      report.problem(
        at('authorization_endpoint'),
        'is required for oauth_connect where there is no issuer to discover it from',
        [...serverReads, at('authorization_endpoint')],
      )
    }
    warnWithoutLogin(file, path, report)
  }
  if (mode === 'entra_obo') checkEntra(written, path, report)
}

function warnWithoutLogin(file: ConfigFile, path: Path, report: Report): void {
  if (file.identity.login !== undefined) return
  report.warning([...path, 'mode'], 'nobody can connect before identity.login is configured')
}

/** Without a client of ours everything is found and registered, so nothing may be written that only a known client could use. */
function checkDiscovery(job: Job, endpoints: Endpoints, path: Path): void {
  const written = job.upstream.credential ?? impliedCredential
  const field = [...path, 'client_id']
  const reads = ['client_id', 'mode', 'preset', 'client_secret', 'private_key'].map((name) => [
    ...path,
    name,
  ])
  const { authorizationEndpoint, tokenEndpoint, revocationEndpoint } = endpoints
  if ([authorizationEndpoint, tokenEndpoint, revocationEndpoint].some((url) => url !== undefined)) {
    job.report.problem(
      field,
      'is required with endpoints or a preset; without it, write an issuer at most, and the rest is discovered',
      reads,
    )
  } else if (written.client_secret !== undefined || written.private_key !== undefined) {
    job.report.problem(field, 'is required with a secret or key of our client', reads)
  }
  warnWithoutLogin(job.file, path, job.report)
}

/** What an upstream without a client of ours is to be asked for. */
function discoveryOf({ upstream }: Job, written: FileCredential): UpstreamCredential['discovery'] {
  const { mode, client_id: clientId } = written
  if (upstream.kind !== 'mcp' || mode !== 'oauth_connect' || clientId !== undefined)
    return undefined
  return {
    issuer: written.issuer === undefined,
    resource: written.resource === undefined && written.resource_parameter !== 'never',
    scopes: written.scopes.length === 0,
    found: undefined,
  }
}

/** Microsoft's endpoints for all tenants refuse the on-behalf-of grant. */
function checkEntra(written: FileCredential, path: Path, report: Report): void {
  for (const field of ['issuer', 'token_endpoint'] as const) {
    const url = written[field]
    if (url === undefined) continue
    const { hostname, pathname } = new URL(url)
    if (hostname !== 'login.microsoftonline.com') continue
    if (/^\/(common|consumers)(\/|$)/.test(pathname)) {
      report.problem(
        [...path, field],
        'must name your tenant: common and consumers refuse the on-behalf-of grant',
      )
    }
  }
  if (written.client_id === undefined) {
    report.warning([...path, 'client_id'], 'is missing; Entra refuses the exchange without it')
  }
  if (written.scopes.length === 0) {
    report.warning(
      [...path, 'scopes'],
      'is empty; Entra refuses the exchange without a scope such as api://<app>/.default',
    )
  }
}

/** Only the stored sign-in token comes with an ID token. */
function checkSubjectToken(job: Job, written: FileCredential, path: Path): void {
  const isStored = job.file.identity.login?.store_subject_token ?? false
  if (isStored) return
  if (written.subject_token_type !== 'id_token') return
  const field = [...path, 'subject_token_type']
  job.report.problem(field, 'id_token needs identity.login.store_subject_token: true', [
    field,
    ['identity', 'login', 'store_subject_token'],
  ])
}

// What every authorization request and every token request is made of (RFC 6749, 7636, 8693, 7523). Others that a request
// sets, such as `scope`, win where it is built.
const ownAuthorizationParameters: ReadonlySet<string> = new Set([
  'client_id',
  'code_challenge',
  'code_challenge_method',
  'redirect_uri',
  'response_type',
  'state',
])
const ownTokenParameters: ReadonlySet<string> = new Set([
  'assertion',
  'client_assertion',
  'client_assertion_type',
  'client_id',
  'client_secret',
  'code',
  'code_verifier',
  'grant_type',
  'redirect_uri',
  'refresh_token',
  'subject_token',
  'subject_token_type',
])

function addedParameters(
  written: Readonly<Record<string, string>>,
  own: ReadonlySet<string>,
  path: Path,
  report: Report,
): Readonly<Record<string, string>> {
  const added: [string, string][] = []
  for (const [name, value] of Object.entries(written)) {
    if (own.has(name)) report.warning([...path, name], 'is set by onbehalf and not taken from here')
    else added.push([name, value])
  }
  return Object.fromEntries(added)
}

function resourceOf(
  upstream: FileUpstream,
  written: FileCredential,
  preset: Preset | undefined,
): string | undefined {
  const isWritten = written.resource !== undefined
  const rule =
    written.resource_parameter ?? (isWritten ? 'auto' : (preset?.resourceParameter ?? 'auto'))
  switch (rule) {
    case 'never':
      return undefined
    case 'always':
      return written.resource ?? upstream.url
    case 'auto':
      // Entra names the target in the scope and refuses `resource` (AADSTS901002).
      if (upstream.kind === 'mcp' && written.mode !== 'entra_obo') {
        return written.resource ?? upstream.url
      }
      return written.resource
  }
}
