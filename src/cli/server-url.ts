import { namesLoopback } from '../core/loopback-url.ts'
import { UsageError } from './cli-error.ts'
import type { CommandContext, CommandOption } from './command.ts'

export const privateNetworkOption: Readonly<Record<string, CommandOption>> = {
  'allow-private-network': {
    summary: 'Let a URL lead to private addresses and plain http, as allow_private_network does.',
  },
}

/** A web server's URL as it was typed. @throws UsageError naming the argument */
export function readServerUrl(text: string, argument: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined
  const isWeb = url?.protocol === 'https:' || url?.protocol === 'http:'
  if (
    url === undefined ||
    !isWeb ||
    url.username !== '' ||
    url.password !== '' ||
    url.hash !== ''
  ) {
    throw new UsageError(`${argument} must be an https or http URL without a user or a fragment.`)
  }
  return url
}

/** Whoever asks a server of this machine means the others beside it, too. */
export function allowsPrivateNetwork({ options }: Pick<CommandContext, 'options'>, url: URL) {
  return namesLoopback(url) || options.has('allow-private-network')
}
