import type { DiscoveryFault } from '../oauth/discovery-failure.ts'

/** What discovery could not do, as the rest of a sentence about a document or a server. */
export const faultTexts: Readonly<Record<DiscoveryFault, string>> = {
  address_refused: 'leads to a private address',
  busy: 'answers with an error',
  endpoint_missing: 'names no usable endpoint',
  issuer_mismatch: 'is of another issuer',
  issuer_unusable: 'is no https URL',
  no_answer: 'did not answer in time',
  no_authorization_server: 'names no authorization server',
  no_challenge: 'asks for no token',
  no_way_to_register: 'takes neither client documents nor registrations',
  not_found: 'not there',
  pkce_not_advertised: 'does not advertise PKCE with S256',
  redirect: 'redirects',
  registration_refused: 'refuses to register',
  resource_mismatch: 'is of another resource',
  too_large: 'is too large',
  unreachable: 'cannot be reached',
  unreadable: 'cannot be read',
  url_unusable: 'is at no usable URL',
}
