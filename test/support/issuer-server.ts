import {
  exportJWK,
  generateKeyPair,
  type GenerateKeyPairResult,
  type JWK,
  type JWTPayload,
  SignJWT,
} from 'jose'
import type { Issuer } from '../../src/core/issuer.ts'
import type { Clock } from '../../src/core/ports/clock.ts'
import { Secret } from '../../src/core/secret.ts'
import {
  byPath,
  json,
  type ReceivedRequest,
  type Script,
  startScriptedServer,
} from './scripted-server.ts'

export const publicUrl = 'https://broker.example.com'

export type SigningKey = GenerateKeyPairResult & { readonly alg: string; readonly jwk: JWK }

export async function generateSigningKey(kid: string, alg = 'ES256'): Promise<SigningKey> {
  const pair = await generateKeyPair(alg, { extractable: true })
  return { ...pair, alg, jwk: { ...(await exportJWK(pair.publicKey)), kid, alg, use: 'sig' } }
}

/** An issuer on a loopback port: metadata, keys, introspection, each of which can be told to misbehave. */
export type TestIssuer = {
  readonly issuer: string
  /** What signs; the first one by default. */
  readonly keys: readonly SigningKey[]
  /** Every request so far, by path. */
  requests(path: string): readonly ReceivedRequest[]
  connections(): number
  /** Answers a path in another way from now on. */
  script(path: string, script: Script): void
  /** The keys that are published from now on. */
  publish(keys: readonly JWK[]): void
  /** A token of this issuer that is good everywhere; each claim and header member can be replaced or, with undefined, left out. */
  mint(
    claims?: JWTPayload,
    options?: { readonly header?: Record<string, unknown>; readonly key?: SigningKey },
  ): Promise<string>
  close(): Promise<void>
}

export const discoveryPath = '/.well-known/openid-configuration'
export const jwksPath = '/jwks'
export const introspectionPath = '/introspect'

export async function startIssuer(clock: Clock): Promise<TestIssuer> {
  const server = await startScriptedServer()
  const { origin } = server
  const keys = [await generateSigningKey('k1'), await generateSigningKey('k2', 'EdDSA')]
  const scripts: Record<string, Script> = {
    [discoveryPath]: json({ issuer: origin, jwks_uri: `${origin}${jwksPath}` }),
    [jwksPath]: json({ keys: keys.map((key) => key.jwk) }),
    [introspectionPath]: json({ active: false }),
  }
  server.script(byPath(scripts))

  return {
    issuer: origin,
    keys,
    requests: (path) => server.requests.filter((request) => request.path === path),
    connections: server.connections,
    script(path, script) {
      scripts[path] = script
    },
    publish(published) {
      scripts[jwksPath] = json({ keys: published })
    },
    async mint(claims = {}, { header = {}, key = keys[0]! } = {}) {
      return new SignJWT({ ...claimsOf(origin, clock), ...claims })
        .setProtectedHeader({ alg: key.alg, typ: 'at+jwt', kid: key.jwk.kid!, ...header })
        .sign(key.privateKey)
    },
    close: () => server.close(),
  }
}

export function claimsOf(issuer: string, clock: Clock): JWTPayload & { exp: number } {
  const now = Math.floor(clock.now().getTime() / 1000)
  return { iss: issuer, sub: 'alice', aud: publicUrl, iat: now, exp: now + 3600 }
}

/** The configuration of an issuer; everything not named is a plain default. */
export function issuerConfig(issuer: string, changes: Partial<Issuer> = {}): Issuer {
  return {
    issuer,
    audiences: [publicUrl],
    validation: 'jwt',
    jwksUri: undefined,
    algorithms: ['RS256', 'ES256', 'EdDSA'],
    secret: undefined,
    introspection: undefined,
    requiredScopes: [],
    requiredClaims: {},
    claims: { user: 'sub', email: 'email', roles: 'roles' },
    allowPrivateNetwork: false,
    requireAtJwt: false,
    ...changes,
  }
}

/** The same with introspection at the issuer's own endpoint. */
export function introspectingConfig(issuer: string, changes: Partial<Issuer> = {}): Issuer {
  return issuerConfig(issuer, {
    validation: 'introspection',
    introspection: {
      endpoint: `${issuer}${introspectionPath}`,
      clientId: 'broker',
      clientSecret: new Secret('CNRY-CS-introspection'),
      cacheSeconds: 30,
    },
    ...changes,
  })
}
