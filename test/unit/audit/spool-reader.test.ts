import fs from 'node:fs'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { createSpool } from '../../../src/audit/spool.ts'
import { spoolFiles } from '../../../src/audit/spool-files.ts'
import { createSpoolMeter } from '../../../src/audit/spool-meter.ts'
import { createSpoolReader, type SpoolDamage } from '../../../src/audit/spool-reader.ts'

const writer = '01a1fea9-d14e-7000-a355-8305b24cec10'
let root: string
let directory: string
let damages: SpoolDamage[]

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), 'onbehalf-spool-'))
  directory = join(root, writer)
  damages = []
})
afterEach(() => rm(root, { recursive: true, force: true }))

const line = (position: number) => `record ${position} of ada`
const numbers = (from: number, to: number) =>
  Array.from({ length: to - from + 1 }, (_, index) => from + index)

/** Frames of so many records each, from position 1 on. */
function write(counts: readonly number[], text = line) {
  const meter = createSpoolMeter()
  const spool = createSpool({
    directory,
    files: spoolFiles,
    meter,
    durability: 'process',
    keep: true,
    onFault: () => {},
    onRecovered: () => {},
  })
  let position = 1
  for (const count of counts) {
    const lines = numbers(position, position + count - 1).map(text)
    void spool.append(lines.join('\n'), count)
    position += count
  }
  return { spool, meter }
}

const open = (from = 1, isGrowing = false) =>
  createSpoolReader({ directory, from, isGrowing, onDamage: (damage) => damages.push(damage) })

function readAll(from = 1) {
  const reader = open(from)
  const records = [...reader.take(Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER)]
  return { reader, records, positions: records.map(({ position }) => position) }
}

const first = () => join(directory, '00000001.spool')

describe('a spool that is whole', () => {
  it('gives each record once, in order, with its text and position', () => {
    write([1, 3, 2])
    const { records } = readAll()
    expect(records.map(({ position, line: text }) => [position, text])).toEqual(
      numbers(1, 6).map((position) => [position, line(position)]),
    )
    expect(damages).toEqual([])
  })

  it('gives as many as are asked for, from where they are wanted, and counts their bytes', () => {
    write([1, 3, 2])
    const reader = open(3)
    const taken = [...reader.take(2, 100), ...reader.take(100, 100)]
    expect(taken.map(({ position }) => position)).toEqual([3, 4, 5, 6])
    const { size } = fs.statSync(first())
    const { records } = readAll()
    expect(records.reduce((sum, { bytes }) => sum + bytes, 0)).toBe(size)
  })

  it('gives nothing that is not said to be written, and goes on when it grows', () => {
    const { spool } = write([2])
    const reader = open(1, true)
    expect(reader.take(10, 0)).toEqual([])
    expect(reader.take(10, 2)).toHaveLength(2)
    expect(reader.take(10, 2)).toEqual([])
    void spool.append(line(3), 1)
    expect(reader.take(10, 3).map(({ line: text }) => text)).toEqual([line(3)])
  })

  it('goes over many segments, and removes those that are done with', async () => {
    const { spool } = write(
      Array.from({ length: 40 }, () => 100),
      (position) => `${line(position)} ${'x'.repeat(900)}`,
    )
    const segments = (await readdir(directory)).length
    expect(segments).toBeGreaterThan(3)
    const reader = open(1, true)
    expect(reader.take(100_000, 4000)).toHaveLength(4000)
    reader.release(3999)
    expect((await readdir(directory)).length).toBe(1)
    void spool.append(line(4001), 1)
    expect(reader.take(10, 4001)).toHaveLength(1)
    reader.remove()
    expect(await readdir(root)).toEqual([])
  })

  it('says nothing of records that were stored and removed before', () => {
    write([2, 2], (position) => line(position))
    const bytes = fs.readFileSync(first())
    const { records } = readAll()
    fs.writeFileSync(first(), bytes.subarray((records[1]?.bytes ?? 0) + (records[0]?.bytes ?? 0)))
    expect(readAll(1).positions).toEqual([3, 4])
    expect(damages).toEqual([])
  })
})

describe('L8: a spool that is damaged', () => {
  it('whose last frame was cut anywhere gives all the others, and says nothing: nobody was answered for it', () => {
    write([1, 2])
    const whole = fs.readFileSync(first())
    const { records } = readAll()
    const start = records[0]?.bytes ?? 0
    for (let length = start; length < whole.length; length++) {
      fs.writeFileSync(first(), whole.subarray(0, length))
      expect(readAll().positions).toEqual([1])
    }
    fs.writeFileSync(first(), Buffer.concat([whole, Buffer.alloc(500)]))
    expect(readAll().positions).toEqual([1, 2, 3])
    expect(damages).toEqual([])
  })

  it('by one byte anywhere in the middle gives all other frames, names what is missing and sets the file aside', async () => {
    write([1, 2, 1])
    const whole = fs.readFileSync(first())
    const { records } = readAll()
    const start = records[0]?.bytes ?? 0
    const length = records[2]?.bytes ?? 0
    for (let at = start; at < start + length; at++) {
      const bytes = Buffer.from(whole)
      bytes.writeUInt8(bytes.readUInt8(at) ^ 0x55, at)
      fs.mkdirSync(directory, { recursive: true })
      fs.writeFileSync(first(), bytes)
      damages = []
      const { reader, positions } = readAll()
      expect(positions).toEqual([1, 4])
      expect(damages).toEqual([{ segment: `${writer}/00000001.spool`, bytes: length, lost: 2 }])
      reader.remove()
      expect(await readdir(root)).toEqual(['damaged'])
    }
    expect(await readdir(join(root, 'damaged'))).toEqual([`${writer}-00000001.spool`])
  })

  it('in its last frame, which is there wholly, says so without knowing how much is missing', () => {
    write([1, 1])
    const bytes = fs.readFileSync(first())
    bytes.writeUInt8(bytes.readUInt8(bytes.length - 1) ^ 1, bytes.length - 1)
    fs.writeFileSync(first(), bytes)
    expect(readAll().positions).toEqual([1])
    expect(damages).toMatchObject([{ lost: null }])
  })

  it('by a file that is gone names what is missing', () => {
    write(
      Array.from({ length: 30 }, () => 100),
      (position) => `${line(position)} ${'x'.repeat(900)}`,
    )
    fs.rmSync(join(directory, '00000002.spool'))
    const { positions } = readAll()
    expect(damages).toHaveLength(1)
    expect(positions.length + Number(damages[0]?.lost)).toBe(3000)
  })

  it('by anything at all never gives a record that was not written, and ends', () => {
    write([3, 2, 4])
    const whole = fs.readFileSync(first())
    const written = new Set(numbers(1, 9).map(line))
    for (let round = 0; round < 300; round++) {
      const bytes = Buffer.from(whole)
      for (let change = 0; change <= round % 5; change++) {
        bytes.writeUInt8(Math.floor(Math.random() * 256), Math.floor(Math.random() * bytes.length))
      }
      fs.writeFileSync(first(), bytes.subarray(0, Math.ceil(Math.random() * bytes.length)))
      for (const { line: text } of readAll().records) expect(written).toContain(text)
    }
  })
})
