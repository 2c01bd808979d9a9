import { createHash, randomBytes } from 'node:crypto'
import { z } from 'zod'
import { agentClientId } from './sandbox-identity-provider.ts'
import { createScriptedBrowser } from './scripted-browser.ts'

const tokenAnswer = z.object({ access_token: z.string() })

/**
 * Signs a person's agent in at the sandbox identity provider (code flow, PKCE, a public client) and gives the person's access
 * token, as an agent would present it.
 */
export async function signInAgent(options: {
  readonly issuer: string
  readonly redirectUri: string
  readonly person: string
}): Promise<string> {
  const { issuer, redirectUri, person } = options
  const verifier = randomBytes(32).toString('base64url')
  const state = randomBytes(16).toString('base64url')
  const browser = createScriptedBrowser()
  const request = new URL('/auth', issuer)
  request.search = new URLSearchParams({
    response_type: 'code',
    client_id: agentClientId,
    redirect_uri: redirectUri,
    scope: 'openid email profile',
    state,
    code_challenge: createHash('sha256').update(verifier).digest('base64url'),
    code_challenge_method: 'S256',
  }).toString()
  const page = await browser.open(request)
  const [form] = page.forms
  if (form === undefined) throw new Error('the identity provider shows no sign-in page')
  const end = await browser.submit(page, form, { button: person })
  const answer = end.url.searchParams
  if (answer.get('state') !== state || answer.get('iss') !== issuer) {
    throw new Error('the answer belongs to another sign-in')
  }
  const response = await fetch(new URL('/token', issuer), {
    method: 'POST',
    body: new URLSearchParams({
      grant_type: 'authorization_code',
      client_id: agentClientId,
      code: answer.get('code') ?? '',
      redirect_uri: redirectUri,
      code_verifier: verifier,
    }),
  })
  return tokenAnswer.parse(await response.json()).access_token
}
