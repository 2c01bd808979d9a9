import type { EndpointCheck, EndpointCheckName, EndpointFault } from '../oauth/endpoint-check.ts'
import { type Command, exitCodes } from './command.ts'
import { faultTexts } from './fault-texts.ts'
import { outputOption, readFormat } from './output-format.ts'
import { allowsPrivateNetwork, privateNetworkOption, readServerUrl } from './server-url.ts'
import { printable, printableJson } from './terminal-text.ts'

const formats = ['table', 'json'] as const

export const smoke: Command = {
  name: 'smoke',
  positionals: ['<URL>'],
  summary: 'Check a protected MCP endpoint.',
  help: `Checks any protected MCP endpoint, of onbehalf or not, as a client sees it that has no token. One line a check:
  challenge          without a token it answers 401 and names its document (RFC 9728 section 5)
  resource metadata  the document is there, is of this URL, and names authorization servers (RFC 9728)
  server metadata    each server's document is there, is of that issuer, and names https endpoints (RFC 8414, OpenID Connect)
  pkce               it advertises S256
  refresh            it advertises the refresh_token grant
  audience           tokens can be asked for this endpoint (RFC 8707), and it answers 401 to one that is not of it
It registers nothing and needs no token; the one it sends is worth nothing. Exit code 1 when a check failed.
Next, where it passes: \`onbehalf upstream probe URL\` shows what would be configured.`,
  options: { ...outputOption(formats), ...privateNetworkOption },
  run: async (context) => {
    const { output, services } = context
    const format = readFormat(context, formats)
    const [text = ''] = context.positionals
    const url = readServerUrl(text, '<URL>')
    const checks = await services.checkEndpoint(text, allowsPrivateNetwork(context, url))
    // What could not be checked is missing because of another check that failed.
    const failures = checks.filter(({ outcome }) => outcome === 'failed').length
    if (format === 'json') {
      const items = checks.map(({ check, outcome, fault, issuer, found }) => {
        return { check, outcome, fault: fault ?? null, issuer: issuer ?? null, found }
      })
      output.out(`${printableJson({ url: text, ok: failures === 0, checks: items })}\n`)
    } else {
      output.out(checks.map(lineOf).join(''))
    }
    if (failures === 0) return exitCodes.good
    output.err(`${failures === 1 ? '1 check' : `${failures} checks`} failed.\n`)
    if (checks.some(({ fault }) => fault === 'address_refused')) {
      output.err('--allow-private-network would allow private addresses and plain http.\n')
    }
    return exitCodes.failed
  },
}

const checkNames: Readonly<Record<EndpointCheckName, string>> = {
  challenge: 'challenge',
  resource_metadata: 'resource metadata',
  server_metadata: 'server metadata',
  pkce: 'pkce',
  refresh: 'refresh',
  audience: 'audience',
}

const endpointFaultTexts: Readonly<Record<EndpointFault, string>> = {
  ...faultTexts,
  metadata_not_named: 'does not name its document (resource_metadata)',
  refresh_not_advertised: 'does not advertise the refresh_token grant',
  foreign_token_taken: 'takes a token that is not of it',
  foreign_token_misjudged: 'does not answer 401 to a token that is not of it',
}

const outcomes = { passed: 'ok', failed: 'FAIL', not_checked: '-' } as const

function lineOf({ check, outcome, fault, issuer, found }: EndpointCheck): string {
  const words = Object.entries(found)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => `${name}=${typeof value === 'object' ? value?.join(',') : value}`)
  const said = outcome === 'not_checked' ? 'not checked' : words.join(' ')
  const isOfServer = issuer !== undefined && found['issuer'] === undefined
  const parts = [
    ...(fault === undefined ? [] : [endpointFaultTexts[fault]]),
    ...(isOfServer ? [`issuer=${issuer}`] : []),
    ...(said === '' ? [] : [said]),
  ]
  return `${printable(`${outcomes[outcome].padEnd(6)}${checkNames[check].padEnd(19)}${parts.join('; ')}`)}\n`
}
