import http from 'node:http'

export type Balancer = {
  readonly url: string
  /** How many requests each target has had, in the order of `targets`. */
  readonly counts: () => readonly number[]
  /** Requests go to these from now on. */
  readonly target: (urls: readonly string[]) => void
  readonly stop: () => Promise<void>
}

/** Hands requests to its targets in turn, whoever they come from: nothing sticks to a replica. */
export async function startBalancer(port: number, urls: readonly string[]): Promise<Balancer> {
  let targets = [...urls]
  let next = 0
  const counts = new Map<string, number>()

  const server = http.createServer((request, response) => {
    const target = targets[next % targets.length]
    next += 1
    if (target === undefined) throw new Error('nobody is behind the balancer')
    counts.set(target, (counts.get(target) ?? 0) + 1)
    const forwarded = http.request(
      new URL(request.url ?? '/', target),
      { method: request.method, headers: request.headers, agent: false },
      (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers)
        answer.pipe(response)
      },
    )
    forwarded.on('error', () => response.destroy())
    request.pipe(forwarded)
  })
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${port}`,
    counts: () => targets.map((target) => counts.get(target) ?? 0),
    target(others) {
      targets = [...others]
    },
    async stop() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}
