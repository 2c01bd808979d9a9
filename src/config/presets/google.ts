import type { Preset } from './preset.ts'

/** Google. Without `access_type` and `prompt` a person who connects again gets no refresh token; refresh tokens do not rotate. */
export const google: Preset = {
  authorizationEndpoint: 'https://accounts.google.com/o/oauth2/v2/auth',
  tokenEndpoint: 'https://oauth2.googleapis.com/token',
  revocationEndpoint: 'https://oauth2.googleapis.com/revoke',
  clientAuth: 'client_secret_post',
  authorizationParameters: { access_type: 'offline', prompt: 'consent' },
  resourceParameter: 'never',
  refreshReuse: { kind: 'none' },
}
