import { describe, expect, it } from 'vitest'
import type { StreamedAnswer } from '../../../src/core/ports/gateway.ts'
import { leavable } from '../../../src/gateway/mcp/leavable.ts'

const plain = { 'content-type': 'text/event-stream' }

/** An answer to leave, what its client has read, and whether whoever writes to it was told to go. */
function opened(headers: Record<string, string> = plain, status = 200) {
  let read = ''
  let ends = 0
  let isGone = false
  const to: StreamedAnswer = {
    begin() {},
    write(chunk) {
      read += Buffer.from(chunk).toString('latin1')
      return true
    },
    end() {
      ends += 1
    },
    cut() {
      ends += 1
    },
    onDrain() {},
    onGone() {},
  }
  const stream = leavable(to)
  stream.answer.onGone(() => {
    isGone = true
  })
  stream.answer.begin(status, headers)
  const write = (text: string) => stream.answer.write(Buffer.from(text, 'latin1'))
  return { ...stream, write, read: () => read, ends: () => ends, isGone: () => isGone }
}

describe('a stream of events that is left', () => {
  it.each([
    ['', 'before anything was said'],
    ['data: 1\n\n', 'after an event'],
    ['data: 1\r\n\r\n', 'after an event with CRLF'],
    ['data: 1\r\r', 'after an event with CR'],
    ['data: 1\n\n: alive\n', 'after a comment that no empty line follows'],
    ['\n\n', 'after empty lines'],
  ])('is left at once after %j: %s', (text) => {
    const stream = opened()
    stream.write(text)
    expect(stream.leave()).toBe(true)
    expect([stream.hasLeft(), stream.isGone()]).toEqual([true, true])
    expect(stream.read()).toBe(text)
  })

  it.each([
    ['data: 1', '\n\n'],
    ['data: 1\n', '\n'],
    ['data: 1\r\n', '\r'],
    ['data: 1\n: a comment\n', '\n'],
    ['id: 7\n', 'data: 1\n\n'],
    ['event: x\ndata: a\ndata', ': b\r\n\r'],
    ['d', 'ata: 1\n\n'],
    [': half a comm', 'ent\n'],
  ])('is not left in the middle of %j, but after %j', (first, rest) => {
    const stream = opened()
    stream.write(first)
    stream.leave()
    expect(stream.hasLeft()).toBe(false)
    // However it is cut into pieces.
    for (const byte of rest.slice(0, -1)) {
      stream.write(byte)
      expect(stream.hasLeft()).toBe(false)
    }
    stream.write(rest.slice(-1))
    expect([stream.hasLeft(), stream.isGone()]).toEqual([true, true])
    expect(stream.read()).toBe(first + rest)
  })

  it('loses no whole event, and no half of one comes through', () => {
    const stream = opened()
    stream.write('data: 1')
    stream.leave()
    stream.write('\n\ndata: 2\n\ndata: 3\n\ndata: 4')
    expect(stream.hasLeft()).toBe(true)
    expect(stream.read()).toBe('data: 1\n\ndata: 2\n\ndata: 3\n\n')
  })

  it('hears nothing more of whoever wrote to it', () => {
    const stream = opened()
    stream.leave()
    stream.write('data: late\n\n')
    stream.answer.end()
    stream.answer.cut()
    expect([stream.read(), stream.ends()]).toEqual(['', 0])
  })

  it('that ends by itself before it can be left has ended', () => {
    const stream = opened()
    stream.write('data: 1')
    stream.leave()
    stream.answer.end()
    expect([stream.hasLeft(), stream.ends()]).toEqual([false, 1])
  })

  it.each([
    ['a document', { 'content-type': 'application/json' }, 200],
    ['a refusal', plain, 404],
    ['what is packed', { ...plain, 'content-encoding': 'gzip' }, 200],
    ['what has a length', { ...plain, 'content-length': '9' }, 200],
  ] as const)('%s is never left, and passes byte for byte', (_what, headers, status) => {
    const stream = opened(headers, status)
    expect(stream.leave()).toBe(false)
    stream.write('data: 1\n\nda')
    expect([stream.hasLeft(), stream.read()]).toEqual([false, 'data: 1\n\nda'])
  })
})
