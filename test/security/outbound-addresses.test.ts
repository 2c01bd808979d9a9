import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { OutboundFailure, type OutboundRequest } from '../../src/core/ports/http-client.ts'
import { isAllowedAddress } from '../../src/outbound/address-rules.ts'
import type { Lookup } from '../../src/outbound/connector.ts'
import { createHttpClient, type OutboundLogLine } from '../../src/outbound/http-client.ts'
import { json, type ScriptedServer, startScriptedServer } from '../support/scripted-server.ts'
import { findTestPort } from '../support/test-port.ts'

const setting = 'upstreams.files.allow_private_network'

const refusal = {
  event: 'outbound_request_failed',
  fault: 'address_refused',
  at: 'upstreams.files',
  setting,
}

let server: ScriptedServer
let log: OutboundLogLine[]

beforeEach(async () => {
  server = await startScriptedServer(json({ reached: true }))
  log = []
})

afterEach(() => server.close())

function request(
  url: string,
  destination: Partial<OutboundRequest['destination']> = {},
): OutboundRequest {
  return {
    url,
    method: 'GET',
    deadlineMs: 5000,
    maxBytes: 1000,
    destination: { allowPrivateNetwork: false, configured: false, setting, ...destination },
  }
}

async function failureOf(sent: Promise<unknown>): Promise<OutboundFailure> {
  const failure = await sent.then(
    () => undefined,
    (error: unknown) => error,
  )
  expect(failure).toBeInstanceOf(OutboundFailure)
  return failure as OutboundFailure
}

/** A resolver that knows these names only. */
function names(table: Readonly<Record<string, readonly string[]>>): Lookup {
  return (name, callback) => {
    const addresses = table[name]
    if (addresses === undefined) return callback(new Error('ENOTFOUND'), [])
    callback(
      null,
      addresses.map((address) => ({ address, family: address.includes(':') ? 6 : 4 })),
    )
  }
}

describe('addresses that no name or document may lead to', () => {
  // Everything that a URL parser, a resolver or a kernel may read as this machine, its network or its platform.
  const forbidden = [
    '127.0.0.1',
    '127.1',
    '127.255.255.254',
    '0x7f000001',
    '0x7f.1',
    '2130706433',
    '017700000001',
    '0177.0.0.1',
    '0',
    '0.0.0.0',
    '10.0.0.1',
    '172.16.0.1',
    '172.31.255.255',
    '192.168.0.1',
    '100.64.0.1',
    '169.254.1.1',
    '169.254.169.254',
    '0xa9fea9fe',
    '168.63.129.16',
    '100.100.100.200',
    '192.0.0.192',
    '192.0.2.1',
    '198.18.0.1',
    '224.0.0.1',
    '240.0.0.1',
    '255.255.255.255',
    '[::]',
    '[::1]',
    '[::ffff:127.0.0.1]',
    '[::ffff:7f00:1]',
    '[::ffff:10.0.0.1]',
    '[::ffff:169.254.169.254]',
    '[::127.0.0.1]',
    '[::7f00:1]',
    '[64:ff9b::7f00:1]',
    '[64:ff9b:1::7f00:1]',
    '[2002:7f00:1::]',
    '[2001:0:7f00:1::]',
    '[2001:db8::1]',
    '[3fff::1]',
    '[fc00::1]',
    '[fd00:ec2::254]',
    '[fe80::1]',
    '[fec0::1]',
    '[ff02::1]',
    '[100::1]',
    '[5f00::1]',
    'localhost',
    'as.localhost',
  ]

  it.each(forbidden)(
    'C18: refuses %s in a URL, over both schemes, without connecting',
    async (host) => {
      const http = createHttpClient({ log: (line) => log.push(line) })
      for (const scheme of ['http', 'https']) {
        const failure = await failureOf(http.send(request(`${scheme}://${host}:${server.port}/`)))
        expect(failure).toMatchObject({ answer: 'not_sent', addressRefused: true })
      }
      expect(server.connections()).toBe(0)
      expect(log).toEqual([refusal, refusal])
    },
  )

  it.each(forbidden.filter((host) => /^[\d.]+$|^\[/.test(host) && /^\[|\..*\..*\./.test(host)))(
    'C18: refuses a name that resolves to %s',
    async (host) => {
      const address = host.replace(/[[\]]/g, '')
      const http = createHttpClient({ lookup: names({ 'as.example.com': [address] }) })
      const failure = await failureOf(http.send(request(`https://as.example.com:${server.port}/`)))
      expect(failure).toMatchObject({ answer: 'not_sent', addressRefused: true })
    },
  )

  it('refuses a name with one forbidden address among good ones', async () => {
    const lookup = names({ 'as.example.com': ['8.8.8.8', '127.0.0.1', '2606:4700::1111'] })
    const http = createHttpClient({ lookup })
    const failure = await failureOf(http.send(request(`https://as.example.com:${server.port}/`)))
    expect(failure).toMatchObject({ answer: 'not_sent', addressRefused: true })
    expect(server.connections()).toBe(0)
  })

  it('F5: judges the address that the socket is connected to, whatever was resolved', async () => {
    // The resolver's answer turns into another address between the check and the connection.
    let asked = 0
    const lookup: Lookup = (_name, callback) =>
      callback(null, [
        {
          get address() {
            asked += 1
            return asked === 1 ? '8.8.8.8' : '127.0.0.1'
          },
          family: 4,
        },
      ])
    const http = createHttpClient({ log: (line) => log.push(line), lookup })
    const failure = await failureOf(http.send(request(`https://as.example.com:${server.port}/`)))
    expect(failure).toMatchObject({ answer: 'not_sent', addressRefused: true })
    expect(log).toEqual([refusal])
    expect(server.requests).toEqual([])
  })

  it('says nothing about the address outside the log', async () => {
    const lookup = names({ 'as.example.com': ['10.20.30.40'] })
    const failure = await failureOf(
      createHttpClient({ lookup }).send(request('https://as.example.com/')),
    )
    expect(failure.cause).toBeUndefined()
    expect(`${failure.message} ${failure.stack}`).not.toMatch(/10\.20|example/)
  })

  it.each([
    'ftp://as.example.com/',
    'gopher://as.example.com:6379/',
    'file:///etc/passwd',
    'javascript:alert(1)',
    'http://as.example.com/',
    'https://user:password@as.example.com/',
    'https://',
    'not a url',
  ])('C18: refuses %s', async (url) => {
    const http = createHttpClient({ lookup: names({ 'as.example.com': ['8.8.8.8'] }) })
    expect(await failureOf(http.send(request(url)))).toMatchObject({
      answer: 'not_sent',
      addressRefused: true,
    })
  })
})

describe('what the operator may open', () => {
  it('takes a loopback URL of the configuration as it stands', async () => {
    const http = createHttpClient()
    for (const host of ['127.0.0.1', 'localhost', '127.1', '0x7f000001']) {
      const url = `http://${host}:${server.port}/`
      expect(await http.send(request(url, { configured: true }))).toMatchObject({ status: 200 })
    }
  })

  it('does not take a private address or a name of the configuration that way', async () => {
    const http = createHttpClient({ lookup: names({ 'as.internal': ['127.0.0.1'] }) })
    for (const host of ['10.0.0.1', '[::ffff:127.0.0.1]', 'as.internal', 'localhost.']) {
      const url = `https://${host}:${server.port}/`
      const failure = await failureOf(http.send(request(url, { configured: true })))
      expect(failure.answer).toBe('not_sent')
    }
    expect(server.connections()).toBe(0)
  })

  it('does not follow a configured localhost that resolves to another machine', async () => {
    const http = createHttpClient({ lookup: names({ localhost: ['10.0.0.1'] }) })
    const url = `http://localhost:${server.port}/`
    const failure = await failureOf(http.send(request(url, { configured: true })))
    expect(failure.addressRefused).toBe(true)
  })

  it('reaches private addresses and plain http with allow_private_network', async () => {
    const http = createHttpClient({ lookup: names({ 'as.internal': ['127.0.0.1'] }) })
    const url = `http://as.internal:${server.port}/`
    const answer = await http.send(request(url, { allowPrivateNetwork: true }))
    expect(answer).toMatchObject({ status: 200, body: '{"reached":true}' })
  })

  it.each([
    '169.254.169.254',
    '168.63.129.16',
    '100.100.100.200',
    '169.254.170.2',
    '192.0.0.192',
    '::ffff:169.254.169.254',
    'fd00:ec2::254',
    'fd00:0ec2:0:0:0:0:0:254',
    '0.0.0.0',
    '224.0.0.1',
    '::',
    'ff02::1',
    '64:ff9b::a9fe:a9fe',
    'not an address',
  ])('never opens %s', (address) => {
    expect(isAllowedAddress(address, { allowPrivateNetwork: true })).toBe(false)
  })

  it.each(['10.1.2.3', '127.0.0.1', '169.254.1.1', '100.64.0.1', 'fd12::1', 'fe80::1%eth0', '::1'])(
    'opens %s only when asked to',
    (address) => {
      expect(isAllowedAddress(address, { allowPrivateNetwork: false })).toBe(false)
      expect(isAllowedAddress(address, { allowPrivateNetwork: true })).toBe(true)
    },
  )

  it.each(['8.8.8.8', '172.32.0.1', '2606:4700::1111', '::ffff:8.8.8.8'])(
    'reaches %s',
    (address) => {
      expect(isAllowedAddress(address, { allowPrivateNetwork: false })).toBe(true)
    },
  )
})

describe('refused and unreachable look the same', () => {
  it('gives one error for a refused address, a closed port and an unknown name', async () => {
    const closed = await findTestPort()
    const http = createHttpClient({ lookup: names({ 'as.internal': ['127.0.0.1'] }) })
    const failures = await Promise.all([
      failureOf(http.send(request(`https://127.0.0.1:${closed}/`))),
      failureOf(http.send(request(`http://127.0.0.1:${closed}/`, { configured: true }))),
      failureOf(http.send(request('https://unknown.example.com/'))),
    ])
    expect(new Set(failures.map(({ message }) => message))).toEqual(
      new Set(['outbound request failed: not_sent']),
    )
  })
})
