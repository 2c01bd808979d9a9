import type { Admins, Issuer, Login, ServiceWithKeys } from '../core/issuer.ts'
import type { BrokerConfig } from './broker-config.ts'
import { readClientAuthentication } from './client-authentication.ts'
import { nearestName } from './describe-issue.ts'
import type { Path, Report } from './problem.ts'
import type { ConfigFile } from './schema.ts'
import type { FileIssuer, FileLogin, FileService } from './schema-identity.ts'
import { requireSafeTransport } from './transport-rule.ts'

const issuersPath = ['identity', 'issuers'] as const
const loginPath = ['identity', 'login'] as const

export function buildIdentity(file: ConfigFile, report: Report): BrokerConfig['identity'] {
  const { identity } = file
  const issuers = identity.issuers.map((issuer, index) =>
    buildIssuer(issuer, [...issuersPath, index], file, report),
  )
  checkIssuersTogether(file, report)
  return {
    issuers,
    shareOpaqueTokens: identity.share_opaque_tokens,
    login: identity.login === undefined ? undefined : buildLogin(identity.login, issuers, report),
    admins: buildAdmins(file, report),
    services: buildServices(file, report),
  }
}

function buildIssuer(issuer: FileIssuer, path: Path, file: ConfigFile, report: Report): Issuer {
  const allow = {
    allowed: issuer.allow_private_network,
    setting: [...path, 'allow_private_network'],
  }
  requireSafeTransport(issuer.issuer, [...path, 'issuer'], allow, report)
  requireSafeTransport(issuer.jwks_uri, [...path, 'jwks_uri'], allow, report)
  const { introspection } = issuer
  requireSafeTransport(
    introspection?.endpoint,
    [...path, 'introspection', 'endpoint'],
    allow,
    report,
  )
  if (allow.allowed) {
    report.warning(allow.setting, 'lets requests to this issuer reach private addresses')
  }
  checkValidation(issuer, path, report)
  checkAudiences(issuer, path, file, report)
  return {
    issuer: issuer.issuer,
    audiences: issuer.audience ?? [file.public_url],
    validation: issuer.validation,
    jwksUri: issuer.jwks_uri,
    algorithms: issuer.algorithms,
    secret: issuer.secret,
    introspection:
      introspection === undefined
        ? undefined
        : {
            endpoint: introspection.endpoint,
            clientId: introspection.client_id,
            clientSecret: introspection.client_secret,
            cacheSeconds: introspection.cache,
          },
    requiredScopes: issuer.required_scopes,
    requiredClaims: issuer.required_claims,
    claims: issuer.claims,
    allowPrivateNetwork: issuer.allow_private_network,
    requireAtJwt: issuer.require_at_jwt,
  }
}

// RFC 7518 §3.2: a shorter HMAC key than the hash can be guessed from one token.
const hmacSecretBytes = 32

function checkValidation(issuer: FileIssuer, path: Path, report: Report): void {
  if (issuer.validation !== 'jwt' && issuer.introspection === undefined) {
    report.problem(
      [...path, 'introspection'],
      `is required with validation: ${issuer.validation}`,
      [
        [...path, 'introspection'],
        [...path, 'validation'],
      ],
    )
  }
  if (issuer.validation === 'jwt' && issuer.introspection !== undefined) {
    report.warning([...path, 'introspection'], 'is not used with validation: jwt')
  }
  const usesSecret = issuer.algorithms.includes('HS256')
  if (usesSecret && issuer.secret === undefined) {
    report.problem([...path, 'algorithms'], 'HS256 needs `secret`', [
      [...path, 'algorithms'],
      [...path, 'secret'],
    ])
  }
  if (issuer.secret === undefined) return
  if (!usesSecret) report.warning([...path, 'secret'], 'is not used unless algorithms has HS256')
  else if (Buffer.byteLength(issuer.secret.reveal()) < hmacSecretBytes) {
    report.warning(
      [...path, 'secret'],
      'is shorter than 32 bytes and can be guessed from one token',
    )
  }
}

/** With its client id as an audience, an ID token of the sign-in would pass as an access token. */
function checkAudiences(issuer: FileIssuer, path: Path, file: ConfigFile, report: Report): void {
  const clientId = file.identity.login?.client_id
  if (clientId === undefined) return
  const clientIdPath = [...loginPath, 'client_id']
  const message = 'is also identity.login.client_id, so ID tokens would pass as access tokens'
  if (issuer.audience === undefined) {
    if (file.public_url === clientId) {
      report.problem([...path, 'audience'], `(by default public_url) ${message}`, [
        clientIdPath,
        ['public_url'],
      ])
    }
    return
  }
  for (const [index, audience] of issuer.audience.entries()) {
    if (audience !== clientId) continue
    report.problem([...path, 'audience', index], message, [clientIdPath, [...path, 'audience']])
  }
}

function checkIssuersTogether(file: ConfigFile, report: Report): void {
  const { issuers, share_opaque_tokens: shareOpaqueTokens } = file.identity
  const seen = new Set<string>()
  for (const [index, { issuer }] of issuers.entries()) {
    const path = [...issuersPath, index, 'issuer']
    if (seen.has(issuer)) report.problem(path, 'is listed twice')
    seen.add(issuer)
  }
  const introspecting = issuers.filter(({ validation }) => validation !== 'jwt')
  const sharePath = ['identity', 'share_opaque_tokens']
  if (introspecting.length > 1 && !shareOpaqueTokens) {
    report.problem(
      sharePath,
      'must be true for introspection at more than one issuer: each of them then sees the opaque tokens of the others',
      [sharePath, ...issuers.map((_, index) => [...issuersPath, index, 'validation'])],
    )
  }
  if (shareOpaqueTokens) {
    report.warning(sharePath, 'shows opaque tokens of one issuer to the others')
  }
}

function buildLogin(login: FileLogin, issuers: readonly Issuer[], report: Report): Login {
  const issuer = issuers.find((candidate) => candidate.issuer === login.issuer)
  if (issuer === undefined) {
    report.problem([...loginPath, 'issuer'], 'must be one of identity.issuers, to the letter', [
      [...loginPath, 'issuer'],
      ...issuerReads(issuers.length),
    ])
  }
  const allowPrivateNetwork = login.allow_private_network ?? issuer?.allowPrivateNetwork ?? false
  const setting = [...loginPath, 'allow_private_network']
  requireSafeTransport(
    login.issuer,
    [...loginPath, 'issuer'],
    { allowed: allowPrivateNetwork, setting },
    report,
  )
  if (login.allow_private_network === true) {
    report.warning(setting, 'lets the sign-in reach private addresses')
  }
  if (!login.scopes.includes('openid')) {
    report.problem([...loginPath, 'scopes'], 'must hold openid, without which there is no sign-in')
  }
  return {
    issuer: login.issuer,
    clientId: login.client_id,
    clientAuthentication: readClientAuthentication(login, loginPath, report),
    scopes: login.scopes,
    storeSubjectToken: login.store_subject_token,
    sessionSeconds: login.session,
    allowPrivateNetwork,
  }
}

function buildAdmins(file: ConfigFile, report: Report): Admins {
  const { issuers, login, admins } = file.identity
  const path = ['identity', 'admins', 'issuer']
  const reads = [path, ['identity', 'login'], ...issuerReads(issuers.length)]
  const only = issuers.length === 1 ? issuers[0]?.issuer : undefined
  const issuer = admins.issuer ?? login?.issuer ?? only
  const isAnybody = admins.roles.length > 0 || admins.users.length > 0
  if (issuer === undefined && isAnybody) {
    report.problem(
      path,
      'is required with several issuers and no login: it says whose people are admins',
      reads,
    )
  }
  if (
    admins.issuer !== undefined &&
    !issuers.some((candidate) => candidate.issuer === admins.issuer)
  ) {
    report.problem(path, 'must be one of identity.issuers, to the letter', reads)
  }
  return {
    issuer: issuer ?? issuers[0]?.issuer ?? '',
    roles: admins.roles,
    users: admins.users,
  }
}

function issuerReads(count: number): Path[] {
  return Array.from({ length: count }, (_, index) => [...issuersPath, index, 'issuer'])
}

function buildServices(file: ConfigFile, report: Report): ServiceWithKeys[] {
  const ids = new Set<string>()
  const keys = new Set<string>()
  return file.identity.services.map((service, index) => {
    const path = ['identity', 'services', index]
    if (ids.has(service.id)) report.problem([...path, 'id'], 'is the id of another service too')
    ids.add(service.id)
    for (const { key, keyPath } of keysOf(service, path, report)) {
      if (keys.has(key)) {
        report.problem(keyPath, 'is written twice; every key belongs to one service')
      }
      keys.add(key)
    }
    checkUpstreamNames(service, path, file, report)
    if (service.may_assert_user) {
      report.warning(
        [...path, 'may_assert_user'],
        'lets this service act for any person without their token',
      )
    }
    return {
      id: service.id,
      keys: service.keys ?? (service.key === undefined ? [] : [service.key]),
      upstreams: service.upstreams,
      maxAgeSeconds: service.max_age,
      mayAssertUser: service.may_assert_user,
      mayReadActivity: service.may_read_activity,
      mayOffboard: service.may_offboard,
    }
  })
}

function keysOf(
  service: FileService,
  path: Path,
  report: Report,
): { readonly key: string; readonly keyPath: Path }[] {
  const keyPath = [...path, 'key']
  const keysPath = [...path, 'keys']
  if (service.key !== undefined && service.keys !== undefined) {
    report.problem(keysPath, 'must not be written together with `key`')
  }
  if (service.key === undefined && service.keys === undefined) {
    report.problem(keyPath, 'is required: a key of 32 characters or more, or several as `keys`', [
      keyPath,
      keysPath,
    ])
  }
  return [
    ...(service.key === undefined ? [] : [{ key: service.key.reveal(), keyPath }]),
    ...(service.keys ?? []).map((key, index) => ({
      key: key.reveal(),
      keyPath: [...keysPath, index],
    })),
  ]
}

function checkUpstreamNames(
  service: FileService,
  path: Path,
  file: ConfigFile,
  report: Report,
): void {
  const names = Object.keys(file.upstreams)
  for (const [index, name] of service.upstreams.entries()) {
    if (name === '*' || names.includes(name)) continue
    const near = nearestName(name, names)
    report.warning(
      [...path, 'upstreams', index],
      `is the name of no upstream${near === undefined ? '' : `; did you mean ${near}?`}`,
    )
  }
}
