/** What `init` writes. Passes `config check` as it stands once the variables of `.env.example` are set. */
export const configTemplate = `# onbehalf configuration. Every setting: docs/configuration.md.
# \${NAME} reads an environment variable, \${NAME:-default} with a default, \${file:/run/secrets/name} a file.
# Check it with: onbehalf config check

# Where people and clients reach the broker: an origin, nothing after the host. Plain http is for loopback only.
public_url: http://127.0.0.1:8080
# public_url: https://broker.example.com

listen:
  host: 127.0.0.1
  port: 8080

# The database. Left out: an embedded PostgreSQL under data_dir, for one machine.
# database:
#   url: "\${DATABASE_URL}"
data_dir: ./.onbehalf

encryption:
  keys:
    # The first key seals, all of them open. Make one with: onbehalf keys generate
    - id: k1
      secret: "\${ONBEHALF_KEY}"

identity:
  # Your identity provider: whose access tokens people present.
  issuers:
    - issuer: https://login.example.com
      # Of which audience their tokens must be. Default: public_url.
      # audience: [https://broker.example.com]
      # claims: { user: sub, email: email, roles: roles }

  # Browser sign-in, for connecting accounts. Register the redirect URI {public_url}/login/callback there.
  login:
    issuer: https://login.example.com
    client_id: onbehalf
    client_secret: "\${ONBEHALF_LOGIN_SECRET}"

  # Who may read everybody's activity.
  admins:
    roles: [onbehalf-admin]

  # Proxies that ask for credentials. A key of 32 characters or more; onbehalf keys generate makes a good one.
  services:
    - id: edge
      key: "\${ONBEHALF_EDGE_KEY}"

upstreams:
  # A server that each person connects once. Register the redirect URI {public_url}/callback/files there.
  files:
    url: https://files.example.com/mcp
    display_name: Files
    credential:
      mode: oauth_connect
      issuer: https://as.example.com
      client_id: onbehalf
      client_secret: "\${ONBEHALF_FILES_SECRET}"
      scopes: [files:read]

  # A protected MCP server needs its url alone: \`onbehalf upstream probe URL\` shows what will be found.
  # notes:
  #   url: https://notes.example.com/mcp

  # A known provider: github, google, slack, atlassian or microsoft.
  # github:
  #   url: https://api.github.com
  #   kind: http
  #   credential:
  #     mode: oauth_connect
  #     preset: github
  #     client_id: "\${GITHUB_CLIENT_ID}"
  #     client_secret: "\${GITHUB_CLIENT_SECRET}"

  # Nobody has to connect where the person's own token can be exchanged (RFC 8693).
  # reports:
  #   url: https://reports.example.com
  #   kind: http
  #   credential:
  #     mode: token_exchange
  #     issuer: https://login.example.com
  #     client_id: onbehalf
  #     client_secret: "\${REPORTS_SECRET}"
  #     audience: reports
`

export const environmentTemplate = `# Copy to .env and set every value. Keep .env out of version control.

# Seals every stored credential: the output of onbehalf keys generate.
ONBEHALF_KEY=

# The secret of the client "onbehalf" at your identity provider.
ONBEHALF_LOGIN_SECRET=

# What your proxy sends to onbehalf: 32 characters or more, for example another onbehalf keys generate.
ONBEHALF_EDGE_KEY=

# The secret of the client "onbehalf" at the authorization server of "files".
ONBEHALF_FILES_SECRET=
`
