/**
 * The parts of oidc-provider that we name by their own files. The package's index prints a warning on every Node that is not a
 * newer long-term release, on one that we test on too; nothing else differs.
 */
declare module 'oidc-provider/lib/provider.js' {
  export { Provider } from 'oidc-provider'
}

declare module 'oidc-provider/lib/helpers/errors.js' {
  import { errors } from 'oidc-provider'

  export import InvalidGrant = errors.InvalidGrant
  export import InvalidRequest = errors.InvalidRequest
  export import InvalidScope = errors.InvalidScope
  export import InvalidTarget = errors.InvalidTarget
}
