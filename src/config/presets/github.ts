import type { Preset } from './preset.ts'

/** GitHub Apps and OAuth apps. Refresh tokens of GitHub Apps are single use; tokens of OAuth apps never end. */
export const github: Preset = {
  authorizationEndpoint: 'https://github.com/login/oauth/authorize',
  tokenEndpoint: 'https://github.com/login/oauth/access_token',
  clientAuth: 'client_secret_post',
  resourceParameter: 'never',
  refreshReuse: { kind: 'strict' },
}
