import { namesLoopback } from '../core/loopback-url.ts'
import type { OutboundDestination } from '../core/ports/http-client.ts'
import { isAllowedAddress, isLoopbackAddress } from './address-rules.ts'
import type { AddressGuard } from './connector.ts'

/** Which addresses a URL's host may turn out to be; undefined when the URL may not be asked at all. */
export function guardOf(
  url: URL,
  destination: Pick<OutboundDestination, 'allowPrivateNetwork' | 'configured'>,
): AddressGuard | undefined {
  if (url.username !== '' || url.password !== '') return undefined
  const { allowPrivateNetwork } = destination
  const ownMachine = destination.configured && namesLoopback(url)
  const isOpen = ownMachine || allowPrivateNetwork
  if (namesLoopback(url) && !isOpen) return undefined
  if (url.protocol !== 'https:' && !(url.protocol === 'http:' && isOpen)) return undefined
  return (address) =>
    (ownMachine && isLoopbackAddress(address)) || isAllowedAddress(address, { allowPrivateNetwork })
}
