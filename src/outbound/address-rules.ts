import ipaddr from 'ipaddr.js'

/**
 * Addresses that hand out a machine's own credentials or run its platform, in every cloud we know of. Never reached, whatever
 * is allowed: no upstream lives there, and one request can be enough to lose the machine.
 */
const platformAddresses = new Set(
  [
    '169.254.169.254', // AWS, Azure, Google and most others
    '169.254.170.2', // AWS containers
    '169.254.170.23', // AWS EKS
    '169.254.0.23', // Tencent
    '100.100.100.200', // Alibaba
    '168.63.129.16', // Azure, a public address as far as registries know
    '192.0.0.192', // Oracle
    'fd00:ec2::254', // AWS
    'fd00:ec2::23', // AWS EKS
    'fd20:ce::254', // Google
  ].map((address) => ipaddr.parse(address).toNormalizedString()),
)

const privateRanges = new Set([
  'private',
  'loopback',
  'linkLocal',
  'carrierGradeNat',
  'uniqueLocal',
])

// Unassigned and transition ranges (IPv4-compatible, NAT64, 6to4, Teredo) lie outside it or carry a name of their own, and
// each is another spelling of an address that would be refused as it is.
const globalUnicastIPv6 = ipaddr.IPv6.parseCIDR('2000::/3')

/**
 * Whether an address may be connected to. IPv4-mapped addresses are judged as the IPv4 address they are; what is no address
 * at all is refused.
 */
export function isAllowedAddress(
  address: string,
  rules: { readonly allowPrivateNetwork: boolean },
): boolean {
  if (!ipaddr.isValid(address)) return false
  const parsed = ipaddr.process(withoutZone(address))
  if (platformAddresses.has(parsed.toNormalizedString())) return false
  const range = parsed.range()
  if (privateRanges.has(range)) return rules.allowPrivateNetwork
  if (range !== 'unicast') return false
  return parsed instanceof ipaddr.IPv4 || parsed.match(globalUnicastIPv6)
}

/** Whether an address is of this machine: 127.0.0.0/8 or ::1, also as an IPv4-mapped address. */
export function isLoopbackAddress(address: string): boolean {
  return ipaddr.isValid(address) && ipaddr.process(withoutZone(address)).range() === 'loopback'
}

function withoutZone(address: string): string {
  return address.split('%', 1)[0] ?? address
}
