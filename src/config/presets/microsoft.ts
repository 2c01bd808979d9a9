import type { Preset } from './preset.ts'

/**
 * Microsoft Entra, work or school accounts of any organisation. An app of one tenant writes that tenant's `issuer` instead.
 * v2 refuses `resource`; a used refresh token stays good.
 */
export const microsoft: Preset = {
  authorizationEndpoint: 'https://login.microsoftonline.com/organizations/oauth2/v2.0/authorize',
  tokenEndpoint: 'https://login.microsoftonline.com/organizations/oauth2/v2.0/token',
  clientAuth: 'client_secret_post',
  resourceParameter: 'never',
  refreshReuse: { kind: 'none' },
}
