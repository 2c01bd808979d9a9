import type { Preset } from './preset.ts'

/** Slack user tokens. Some answers to a code carry the person's token inside `authed_user`. */
export const slack: Preset = {
  authorizationEndpoint: 'https://slack.com/oauth/v2_user/authorize',
  tokenEndpoint: 'https://slack.com/api/oauth.v2.user.access',
  clientAuth: 'client_secret_basic',
  resourceParameter: 'never',
  refreshReuse: { kind: 'strict' },
  tokenAnswerMember: 'authed_user',
}
