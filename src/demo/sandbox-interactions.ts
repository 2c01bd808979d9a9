import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Interaction } from 'oidc-provider'
import type { Provider } from 'oidc-provider/lib/provider.js'
import { readForm } from './loopback-server.ts'
import { sendPage, type SandboxPage } from './sandbox-page.ts'
import type { SandboxAccount } from './sandbox-provider.ts'

export type InteractionPages = {
  /** Name of the buttons with which one chooses an account. */
  readonly choiceName: string
  readonly choose: (clientName: string) => Omit<SandboxPage, 'form'>
  readonly consent: (clientName: string, scopes: readonly string[]) => Omit<SandboxPage, 'form'>
}

/**
 * Answers `/interaction/{id}`: the choice of an account, one button each, and the consent. oidc-provider binds both to the
 * browser by a cookie.
 */
export function createInteractions(options: {
  readonly provider: Provider
  readonly accounts: ReadonlyMap<string, SandboxAccount>
  readonly pages: InteractionPages
}): (request: IncomingMessage, response: ServerResponse) => Promise<void> {
  const { provider, accounts, pages } = options

  async function show(interaction: Interaction, response: ServerResponse): Promise<void> {
    const client = await provider.Client.find(String(interaction.params['client_id']))
    const clientName = client?.clientName ?? 'an application'
    const action = `/interaction/${interaction.uid}`
    if (interaction.prompt.name === 'login') {
      const buttons = [...accounts.values()].map(({ id, name, claims }) => ({
        name: pages.choiceName,
        value: id,
        label: name,
        ...(typeof claims['email'] === 'string' ? { note: claims['email'] } : {}),
      }))
      sendPage(response, 200, { ...pages.choose(clientName), form: { action, buttons } })
      return
    }
    sendPage(response, 200, {
      ...pages.consent(clientName, scopesOf(interaction)),
      form: {
        action,
        buttons: [
          { name: 'decision', value: 'allow', label: 'Allow' },
          { name: 'decision', value: 'deny', label: 'Deny' },
        ],
      },
    })
  }

  async function decide(
    interaction: Interaction,
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    const form = await readForm(request)
    if (interaction.prompt.name === 'login') {
      const accountId = form.get(pages.choiceName) ?? ''
      if (!accounts.has(accountId)) return show(interaction, response)
      return provider.interactionFinished(request, response, { login: { accountId } })
    }
    if (form.get('decision') !== 'allow') {
      return provider.interactionFinished(request, response, {
        error: 'access_denied',
        error_description: 'The person said no.',
      })
    }
    const grantId = await saveGrant(provider, interaction)
    return provider.interactionFinished(request, response, { consent: { grantId } })
  }

  return async (request, response) => {
    const interaction = await provider.interactionDetails(request, response).catch(() => undefined)
    if (interaction === undefined || request.url !== `/interaction/${interaction.uid}`) {
      sendPage(response, 400, {
        title: 'This page is over',
        paragraphs: ['It was answered already, or belongs to another browser. Start again.'],
      })
    } else if (request.method === 'POST') {
      await decide(interaction, request, response)
    } else {
      await show(interaction, response)
    }
  }
}

function scopesOf(interaction: Interaction): readonly string[] {
  const { scope } = interaction.params
  return typeof scope === 'string' ? scope.split(' ') : []
}

/** A grant of its own for every consent, so that ending one connection leaves another alone. */
async function saveGrant(provider: Provider, interaction: Interaction): Promise<string> {
  const grant = new provider.Grant({
    clientId: String(interaction.params['client_id']),
    accountId: interaction.session?.accountId,
  })
  const scopes = scopesOf(interaction)
  const { resource } = interaction.params
  const resources = typeof resource === 'string' ? [resource] : []
  grant.addOIDCScope(scopes.filter((scope) => scope === 'openid' || scope === 'offline_access'))
  for (const indicator of resources) grant.addResourceScope(indicator, [...scopes])
  return grant.save()
}
