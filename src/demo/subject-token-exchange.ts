import { createLocalJWKSet, jwtVerify } from 'jose'
import type { Client, TokenEndpointGrantContext } from 'oidc-provider'
import {
  InvalidGrant,
  InvalidRequest,
  InvalidScope,
  InvalidTarget,
} from 'oidc-provider/lib/helpers/errors.js'
import {
  resourceServer,
  type SandboxAccount,
  type SandboxProvider,
  type SandboxResource,
  type SigningAlgorithm,
} from './sandbox-provider.ts'

export const tokenExchangeGrant = 'urn:ietf:params:oauth:grant-type:token-exchange'
export const jwtBearerGrant = 'urn:ietf:params:oauth:grant-type:jwt-bearer'
const tokenTypePrefix = 'urn:ietf:params:oauth:token-type:'

export type SubjectTokenExchange = {
  readonly algorithm: SigningAlgorithm
  readonly accounts: ReadonlyMap<string, SandboxAccount>
  /** What the requesting client is called as an audience; a subject token must have been made for it. */
  readonly audienceOf: (clientId: string) => string
  readonly findTarget: (resource: string) => SandboxResource | undefined
}

type ExchangeParameters = {
  readonly subject_token?: string
  readonly subject_token_type?: string
  readonly requested_token_type?: string
  readonly audience?: string | readonly string[]
}

type OnBehalfParameters = { readonly assertion?: string; readonly requested_token_use?: string }

type ExchangeContext = Pick<TokenEndpointGrantContext, 'oidc' | 'body'>
type Target = { readonly indicator: string; readonly resource: SandboxResource }

/**
 * Teaches an oidc-provider to exchange its own tokens for ones aimed elsewhere: RFC 8693, and the on-behalf-of form of Entra
 * (jwt-bearer with `requested_token_use=on_behalf_of`, a target named in `scope`).
 */
export function registerSubjectTokenExchange(
  { provider, publicKeys }: SandboxProvider,
  options: SubjectTokenExchange,
): void {
  const keys = createLocalJWKSet({ keys: [...publicKeys.keys] })

  /** Whose token it is; undefined when it is not one of ours, has ended, or was made for somebody else. */
  async function findSubject(
    token: string,
    client: Client,
    tokenType: string,
  ): Promise<SandboxAccount | undefined> {
    const isIdToken = tokenType === 'id_token'
    try {
      const { payload } = await jwtVerify(token, keys, {
        issuer: provider.issuer,
        audience: isIdToken ? client.clientId : options.audienceOf(client.clientId),
        requiredClaims: ['exp', 'sub'],
        ...(isIdToken ? {} : { typ: 'at+jwt' }),
      })
      return options.accounts.get(payload.sub ?? '')
    } catch {
      const stored = await provider.AccessToken.find(token)
      const audience = stored?.aud
      const meant = options.audienceOf(client.clientId)
      return stored?.accountId !== undefined && [audience].flat().includes(meant)
        ? options.accounts.get(stored.accountId)
        : undefined
    }
  }

  function findTarget(candidates: readonly string[]): Target {
    for (const indicator of candidates) {
      const resource = options.findTarget(indicator)
      if (resource !== undefined) return { indicator, resource }
    }
    throw new InvalidTarget('none of the named targets is known here')
  }

  async function issue(
    { oidc }: ExchangeContext,
    account: SandboxAccount,
    target: Target,
    scopes: readonly string[],
  ): Promise<{ value: string; expiresIn: number; scope: string; grantId: string }> {
    if (scopes.some((scope) => !target.resource.scopes.includes(scope))) {
      throw new InvalidScope('the target has no such scope', scopes.join(' '))
    }
    oidc.entity('Account', { accountId: account.id })
    const granted = (scopes.length === 0 ? target.resource.scopes : scopes).join(' ')
    const grant = new provider.Grant({ clientId: oidc.client.clientId, accountId: account.id })
    grant.addResourceScope(target.indicator, granted)
    const grantId = await grant.save()
    const token = new provider.AccessToken({
      accountId: account.id,
      client: oidc.client,
      grantId,
      scope: granted,
      gty: 'exchange',
      resourceServer: new provider.ResourceServer(
        target.indicator,
        resourceServer(target.resource, options.algorithm),
      ),
    })
    return { value: await token.save(), expiresIn: token.expiration, scope: granted, grantId }
  }

  async function exchange(context: TokenEndpointGrantContext<ExchangeParameters>): Promise<void> {
    const { params, client } = context.oidc
    const type = params.subject_token_type?.replace(tokenTypePrefix, '') ?? ''
    if (!['access_token', 'id_token', 'jwt'].includes(type)) {
      throw new InvalidRequest('subject_token_type is not one that can be exchanged')
    }
    const account = await findSubject(params.subject_token ?? '', client, type)
    // RFC 8693 §2.2.2 says invalid_request here, not invalid_grant.
    if (account === undefined) throw new InvalidRequest('subject_token is not acceptable')
    const target = findTarget([params.resource ?? [], params.audience ?? []].flat())
    const scopes = params.scope?.split(' ') ?? []
    const issued = await issue(context, account, target, scopes)
    context.body = {
      access_token: issued.value,
      issued_token_type: `${tokenTypePrefix}access_token`,
      token_type: 'Bearer',
      expires_in: issued.expiresIn,
      scope: issued.scope,
    }
  }

  async function onBehalf(context: TokenEndpointGrantContext<OnBehalfParameters>): Promise<void> {
    const { params, client } = context.oidc
    if (params.requested_token_use !== 'on_behalf_of') {
      throw new InvalidRequest('requested_token_use must be on_behalf_of')
    }
    const account = await findSubject(params.assertion ?? '', client, 'access_token')
    if (account === undefined) throw new InvalidGrant('assertion is not acceptable')
    const named = params.scope?.split(' ') ?? []
    const { target, scopes } = readEntraScope(named, findTarget)
    const issued = await issue(context, account, target, scopes)
    const { grantId } = issued
    const refreshToken = new provider.RefreshToken({
      accountId: account.id,
      client,
      grantId,
      gty: jwtBearerGrant,
      resource: target.indicator,
      rotations: 0,
      scope: issued.scope,
    })
    context.body = {
      token_type: 'Bearer',
      scope: issued.scope,
      expires_in: issued.expiresIn,
      ext_expires_in: issued.expiresIn,
      access_token: issued.value,
      ...(named.includes('offline_access') ? { refresh_token: await refreshToken.save() } : {}),
    }
  }

  provider.registerGrantType<ExchangeParameters>(
    tokenExchangeGrant,
    exchange,
    [
      'subject_token',
      'subject_token_type',
      'requested_token_type',
      'actor_token',
      'actor_token_type',
      'audience',
      'resource',
      'scope',
    ],
    ['audience', 'resource'],
  )
  provider.registerGrantType<OnBehalfParameters>(jwtBearerGrant, onBehalf, [
    'assertion',
    'requested_token_use',
    'scope',
  ])
}

/** Entra names the target inside the scope: `{target}/.default`, or `{target}/{name}`, one target a request. */
function readEntraScope(
  named: readonly string[],
  findTarget: (candidates: readonly string[]) => Target,
): { target: Target; scopes: readonly string[] } {
  const aimed = named.filter((scope) => scope.includes('/'))
  const targets = aimed.map((scope) => scope.slice(0, scope.lastIndexOf('/')))
  const target = findTarget(targets)
  if (targets.some((indicator) => indicator !== target.indicator)) {
    throw new InvalidScope('scopes of several targets', named.join(' '))
  }
  const scopes = aimed
    .map((scope) => scope.slice(scope.lastIndexOf('/') + 1))
    .filter((scope) => scope !== '.default')
  return { target, scopes }
}
