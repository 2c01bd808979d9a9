import type { Preset } from './preset.ts'

/** Atlassian 3LO (Jira and Confluence cloud). Add `offline_access` to the scopes, or there is no refresh token. */
export const atlassian: Preset = {
  authorizationEndpoint: 'https://auth.atlassian.com/authorize',
  tokenEndpoint: 'https://auth.atlassian.com/oauth/token',
  clientAuth: 'client_secret_post',
  authorizationParameters: { audience: 'api.atlassian.com', prompt: 'consent' },
  resourceParameter: 'never',
  refreshReuse: { kind: 'strict' },
}
