import { randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { createSecretScan, scanDirectory } from '../support/secret-scan.ts'

describe('the secret scan', () => {
  const secret = `s3cr=t/"${randomBytes(20).toString('base64url')}"+ü`

  function scanFor(value: string | Uint8Array) {
    const scan = createSecretScan()
    scan.register('test', value)
    return scan
  }

  it.each([
    ['raw', secret],
    ['base64', Buffer.from(secret).toString('base64')],
    ['base64, one byte into a longer text', Buffer.from(`x${secret}yz`).toString('base64')],
    ['base64, two bytes into a longer text', Buffer.from(`xx${secret}`).toString('base64')],
    ['base64 in lines', Buffer.from(secret).toString('base64').replace(/.{20}/g, '$&\n')],
    ['base64url', Buffer.from(`??>${secret}`).toString('base64url')],
    ['hex', Buffer.from(secret).toString('hex')],
    ['upper-case hex', Buffer.from(secret).toString('hex').toUpperCase()],
    ['bytea as PostgreSQL prints it', `\\x${Buffer.from(secret).toString('hex')}`],
    ['URL-encoded', encodeURIComponent(secret)],
    ['JSON-escaped', JSON.stringify({ message: secret })],
  ])('finds one %s', (_form, hidden) => {
    const findings = scanFor(secret).find('a text', `before ${hidden} after`)
    expect(findings.map(({ where, kind }) => ({ where, kind }))).toContainEqual({
      where: 'a text',
      kind: 'test',
    })
  })

  it('finds bytes, such as a key', () => {
    const key = randomBytes(32)
    const scan = scanFor(key)
    // Some keys look the same raw and in another form, which are two findings.
    const forms = scan.find('file', Buffer.concat([randomBytes(7), key])).map(({ form }) => form)
    expect(forms).toContain('raw')
    expect(scan.find('log', `key=${key.toString('base64')}`)[0]?.form).toBe('base64')
  })

  it('finds what nobody registered by the prefix of its class', () => {
    const scan = createSecretScan()
    const token = 'CNRY-RT-never-registered'
    for (const text of [token, Buffer.from(`{"t":"${token}"}`).toString('base64url')]) {
      expect(scan.find('a text', text)[0]?.kind).toBe('CNRY-RT-…')
    }
  })

  it('finds nothing where there is nothing, nor a part or a neighbour of a secret', () => {
    const scan = scanFor(secret)
    expect(scan.find('a text', '')).toEqual([])
    expect(scan.find('a text', secret.slice(0, -4))).toEqual([])
    expect(scan.find('a text', randomBytes(100_000))).toEqual([])
  })

  it('says where and of what kind, and never the value', () => {
    const findings = scanFor(secret).find('the log', secret)
    expect(JSON.stringify(findings)).not.toContain(secret.slice(0, 12))
  })

  it('refuses to look for something too short', () => {
    expect(() => createSecretScan().register('short', 'abc')).toThrow('too short')
  })

  it('looks through files in all directories', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'scan-'))
    try {
      await mkdir(join(directory, 'deep'))
      await writeFile(join(directory, 'clean'), 'nothing')
      await writeFile(join(directory, 'deep', 'spool'), Buffer.from(`\0\x01${secret}`))
      const findings = await scanDirectory(scanFor(secret), directory)
      expect(new Set(findings.map(({ where }) => where))).toEqual(new Set(['file spool']))
    } finally {
      await rm(directory, { recursive: true })
    }
  })
})
