import type { DiscoveryFault, DiscoveryStep } from '../oauth/discovery-failure.ts'
import type { ProbeReport, ProbeStep } from '../oauth/upstream-probe.ts'
import { UsageError } from './cli-error.ts'
import { type Command, type CommandContext, exitCodes } from './command.ts'
import { configOption, withConfiguration } from './config-file.ts'
import { faultTexts } from './fault-texts.ts'
import { outputOption, readFormat } from './output-format.ts'
import { allowsPrivateNetwork, privateNetworkOption, readServerUrl } from './server-url.ts'
import { printable, printableJson, renderTable } from './terminal-text.ts'

const formats = ['table', 'json'] as const

export const upstreamProbe: Command = {
  name: 'upstream probe',
  positionals: ['<URL|NAME>'],
  summary: 'Show what discovery finds about an upstream.',
  help: `Asks a protected MCP server, by its URL or by its name in the configuration, what onbehalf would ask it at the first
use: its challenge, its RFC 9728 document, the metadata of its authorization server, and how a client comes to be
there. Registers nothing. Exit code 1 when people could not connect to it so.
Next: put what it prints into onbehalf.yaml. Of a name whose credential is written there already, nothing has to be.`,
  options: {
    ...configOption,
    ...outputOption(formats),
    ...privateNetworkOption,
  },
  run: async (context) => {
    const [target = ''] = context.positionals
    const format = readFormat(context, formats)
    if (target.includes('://'))
      return show(context, await probeUrl(context, target), format, 'name')
    if (context.options.has('allow-private-network')) {
      throw new UsageError(
        '--allow-private-network is for a URL; the configuration says it of a name.',
      )
    }
    return withConfiguration(context, async (configuration) => {
      const report = await configuration.probe(target)
      if (report !== undefined) return show(context, report, format, target)
      context.output.err(
        'There is no upstream of that name in the configuration. A URL begins with https://.\n',
      )
      return exitCodes.refused
    })
  },
}

function probeUrl(context: CommandContext, text: string): Promise<ProbeReport> {
  const url = readServerUrl(text, '<URL>')
  return context.services.probe(text, allowsPrivateNetwork(context, url))
}

function show(
  { output }: CommandContext,
  report: ProbeReport,
  format: (typeof formats)[number],
  name: string,
): number {
  const snippet = report.works ? configured(report) : undefined
  if (format === 'json') {
    const steps = report.steps.map(({ step, fault, found }) => {
      return { step, ok: fault === undefined, fault: fault ?? null, found }
    })
    const { url, works, client } = report
    output.out(
      `${printableJson({ url, works, client, steps, server: serverJson(report), configured: snippet ?? null })}\n`,
    )
    return works ? exitCodes.good : exitCodes.failed
  }
  output.out(renderTable(['STEP', 'RESULT', 'FOUND'], report.steps.flatMap(rowsOf)))
  if (snippet === undefined) {
    output.err(`People could not connect to it so. ${adviceOn(report)}\n`)
    return exitCodes.failed
  }
  if (report.client === 'written') {
    output.out(
      `\nThe configuration of ${name} says all that is needed: nothing of this has to be written there.\n`,
    )
    return exitCodes.good
  }
  output.out(`\nWhat would be configured:\n\n${indented(snippet, name)}`)
  return exitCodes.good
}

const stepNames: Readonly<Record<DiscoveryStep, string>> = {
  challenge: 'challenge',
  resource_metadata: 'resource metadata',
  server_metadata: 'server metadata',
  client: 'client',
}

function rowsOf({ step, fault, found }: ProbeStep): readonly (readonly string[])[] {
  const name = stepNames[step]
  const result = fault === undefined ? 'ok' : faultTexts[fault]
  const lines = Object.entries(found)
    .filter(([, value]) => value !== null)
    .map(([key, value]) => `${key}: ${typeof value === 'object' ? (value ?? []).join(' ') : value}`)
  if (lines.length === 0) return [[name, result, '-']]
  return lines.map((line, at) => (at === 0 ? [name, result, line] : ['', '', line]))
}

function serverJson({ server }: ProbeReport) {
  if (server === undefined) return null
  return {
    issuer: server.issuer,
    authorization_endpoint: server.authorizationEndpoint,
    token_endpoint: server.tokenEndpoint,
    revocation_endpoint: server.revocationEndpoint ?? null,
    registration_endpoint: server.registrationEndpoint ?? null,
    client_id_metadata_document_supported: server.takesClientDocuments,
    resource: server.resource,
    scopes: server.scopes,
  }
}

type Configured = {
  readonly url: string
  readonly allow_private_network?: true
  readonly credential: Readonly<Record<string, unknown>>
}

/** What the upstream's entry would come to; of a server that is found so, the url alone is enough. */
function configured({ url, server, client }: ProbeReport): Configured {
  if (server === undefined || client === 'written')
    return { url, credential: { mode: 'as written' } }
  const isPrivate = new URL(server.issuer).protocol === 'http:'
  return {
    url,
    ...(isPrivate ? { allow_private_network: true } : {}),
    credential: {
      mode: 'oauth_connect',
      issuer: server.issuer,
      client,
      scopes: server.scopes,
      resource: server.resource,
    },
  }
}

const clientTexts: Readonly<Record<ProbeReport['client'], string>> = {
  document: 'our own document (CIMD)',
  registration: 'registered at the first use (DCR)',
  written: 'as written',
  none: '-',
}

function indented(
  { url, allow_private_network: isPrivate, credential }: Configured,
  name: string,
): string {
  const { issuer, client, scopes, resource } = credential
  const list = Array.isArray(scopes) ? scopes.join(', ') : ''
  const lines = [
    'upstreams:',
    `  ${name}:`,
    `    url: ${url}`,
    ...(isPrivate === true ? ['    allow_private_network: true'] : []),
    ...(typeof issuer !== 'string'
      ? []
      : [
          '    # found, so it need not be written:',
          `    #   issuer: ${issuer}`,
          `    #   client: ${clientTexts[client as ProbeReport['client']]}`,
          `    #   scopes: [${list}]`,
          `    #   resource: ${String(resource)}`,
        ]),
  ]
  return lines.map((line) => `${printable(line)}\n`).join('')
}

const advices: Partial<Record<DiscoveryFault, string>> = {
  address_refused: 'allow_private_network of the upstream would allow that address.',
  pkce_not_advertised:
    'If the server takes PKCE all the same, write its endpoints and a client_id.',
  no_way_to_register: 'Register a client there by hand, and write its client_id and the issuer.',
}

function adviceOn({ steps, client }: ProbeReport): string {
  if (client === 'written') return 'Look at the issuer that the configuration names.'
  const fault = steps.findLast((step) => step.fault !== undefined)?.fault
  const advice = fault === undefined ? undefined : advices[fault]
  return advice ?? 'Where its authorization server is known, write issuer and client_id.'
}
