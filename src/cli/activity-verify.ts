import { createPublicKey } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import * as z from 'zod'
import {
  type ActivityFinding,
  activityFindingKinds,
  type ActivityVerdict,
} from '../core/ports/activity-proof.ts'
import { apiOptions } from './bearer.ts'
import { openBrokerApi } from './broker-api.ts'
import { CommandFailure, UsageError } from './cli-error.ts'
import { type Command, type CommandContext, exitCodes } from './command.ts'
import { configOption, withConfiguration } from './config-file.ts'
import { splitLines } from './lines.ts'
import { outputOption, readFormat } from './output-format.ts'
import { parseJson } from './parse-json.ts'
import { clearLine, progressBar } from './progress-bar.ts'
import { printable, printableJson, renderCsv } from './terminal-text.ts'

const formats = ['table', 'json', 'ndjson', 'csv'] as const
type Format = (typeof formats)[number]

const finding = z.object({
  kind: z.enum(activityFindingKinds),
  writer: z.string().nullable(),
  seq: z.number().nullable(),
  through: z.number().nullable(),
})
const result = z.object({
  ok: z.boolean(),
  records: z.number(),
  writers: z.number(),
  unchained: z.number(),
  removed: z.number(),
  checkpoints: z.number(),
})

export const activityVerify: Command = {
  name: 'activity verify',
  summary: 'Check that nothing was changed in the activity log.',
  help: `Checks every record against the chain that its process wrote, and the chains against the signed checkpoints.
Prints what is wrong, one line each: the kind (${activityFindingKinds.join(', ')}), the writer, the record.
Exit code 1 when anything is.

With --config it reads the database of that configuration; with --url it asks a running broker, as somebody who
may read the log. Without either: the broker of ONBEHALF_URL, else the default configuration
(never the broker where you signed in last: name it).

Checkpoints are in the database and, as "event":"activity_checkpoint", in what \`onbehalf serve\` wrote to stdout.
Keep the latter where whoever can write the database cannot: --checkpoints compares the log with them.`,
  options: {
    ...configOption,
    checkpoints: {
      value: 'FILE',
      summary: 'What `serve` wrote to stdout, or the lines of it with checkpoints.',
    },
    'public-key': {
      value: 'FILE',
      summary: 'Believe these keys only: PEM, or what /api/v1/activity/keys answered.',
    },
    ...apiOptions,
    url: { value: 'URL', summary: 'Ask this running broker. Default: $ONBEHALF_URL.' },
    ...outputOption(formats),
  },
  run: async (context) => {
    const format = readFormat(context, formats)
    const { isWatched, err } = context.output
    const clear = () => {
      if (isWatched) err(clearLine)
    }
    if (asksBroker(context)) {
      if (isWatched) err('The broker is checking …')
      return show(await askBroker(context).finally(clear), context, format)
    }
    const publicKeys = await readPublicKeys(context)
    return withConfiguration(context, async (configuration) => {
      const checkpointLines = readCheckpoints(context)
      const verdict = await configuration
        .verifyActivity({
          ...(checkpointLines === undefined ? {} : { checkpointLines }),
          ...(publicKeys === undefined ? {} : { publicKeys }),
          onProgress: isWatched ? progressBar(err) : () => {},
        })
        .finally(clear)
      return show(verdict, context, format)
    })
  },
}

function asksBroker({ options, env }: CommandContext): boolean {
  const local = ['config', 'checkpoints', 'public-key'].filter((name) => options.has(name))
  if (options.has('url') || options.has('token')) {
    const [name] = local
    if (name !== undefined) {
      throw new UsageError(`--${name} is for the database; --url and --token ask a broker.`)
    }
    return true
  }
  const url = env['ONBEHALF_URL']
  return local.length === 0 && url !== undefined && url !== ''
}

async function askBroker(context: CommandContext): Promise<ActivityVerdict> {
  const api = await openBrokerApi(context)
  const findings: ActivityFinding[] = []
  for await (const line of api.lines('/api/v1/activity/verify')) {
    const value = parseJson(line)
    const last = result.safeParse(value)
    if (last.success) return { findings, ...last.data }
    const found = finding.safeParse(value)
    if (!found.success) {
      throw new CommandFailure(
        'The answer is not one of onbehalf. Is --url the address of the broker?',
      )
    }
    findings.push(found.data)
  }
  throw new CommandFailure(
    'The answer was cut off: the broker did not finish the check. Try again.',
  )
}

function show(
  verdict: ActivityVerdict,
  { output, options }: CommandContext,
  format: Format,
): number {
  const { findings, ...counts } = verdict
  const summary = { ok: findings.length === 0, ...counts }
  output.out(render[format](findings, summary))
  const { unchained, removed, checkpoints } = counts
  if (unchained > 0) {
    output.err(
      `${count(unchained, 'record')} from before there was a chain: nothing is known of them.\n`,
    )
  }
  if (removed > 0) output.err(`${count(removed, 'record')} were removed by the retention.\n`)
  if (options.has('checkpoints') && checkpoints === 0) {
    output.err('No checkpoint was found that could be believed.\n')
  }
  if (!options.has('checkpoints')) {
    output.err(
      'Only the checkpoints in the database were looked at: whoever can edit the database could have removed some. --checkpoints FILE compares the log with those that `serve` wrote to stdout.\n',
    )
  }
  return summary.ok ? exitCodes.good : exitCodes.failed
}

type Summary = Omit<ActivityVerdict, 'findings'> & { readonly ok: boolean }

const render: Readonly<
  Record<Format, (findings: readonly ActivityFinding[], summary: Summary) => string>
> = {
  table: (findings, { ok, records, writers, checkpoints }) => {
    const lines = findings.map(
      (each) => `${each.kind} ${printable(each.writer ?? '-')} ${placeOf(each)}\n`,
    )
    const looked = `${count(records, 'record')}, ${count(writers, 'writer')}, ${count(checkpoints, 'checkpoint')}`
    return `${lines.join('')}${ok ? 'Nothing is wrong' : `${count(findings.length, 'thing')} wrong`}: ${looked}.\n`
  },
  json: (findings, summary) => `${printableJson({ ...summary, findings })}\n`,
  ndjson: (findings, summary) =>
    [...findings, summary].map((each) => `${printableJson(each, 0)}\n`).join(''),
  csv: (findings) =>
    renderCsv([
      ['kind', 'writer', 'seq', 'through'],
      ...findings.map(({ kind, writer, seq, through }) => [
        kind,
        writer,
        String(seq ?? ''),
        String(through ?? ''),
      ]),
    ]),
}

function placeOf({ seq, through }: ActivityFinding): string {
  if (seq === null) return '-'
  return through === null || through === seq ? String(seq) : `${seq}-${through}`
}

function count(number: number, of: string): string {
  return `${number} ${of}${number === 1 ? '' : 's'}`
}

/** Lines of the file, read as they are needed: it may be the log of years. */
function readCheckpoints({ options, cwd }: CommandContext): AsyncIterable<string> | undefined {
  const file = options.value('checkpoints')
  if (file === undefined) return undefined
  return linesOf(resolve(cwd, file), file)
}

async function* linesOf(path: string, file: string): AsyncGenerator<string> {
  try {
    yield* splitLines(createReadStream(path, 'utf8'))
  } catch {
    throw new CommandFailure(`${printable(file)} cannot be read.`)
  }
}

async function readPublicKeys({ options, cwd }: CommandContext): Promise<string[] | undefined> {
  const file = options.value('public-key')
  if (file === undefined) return undefined
  let text: string
  try {
    text = await readFile(resolve(cwd, file), 'utf8')
  } catch {
    throw new CommandFailure(`${printable(file)} cannot be read.`)
  }
  const keys = publicKeysIn(text.trim())
  if (keys.length === 0) {
    throw new CommandFailure(
      `${printable(file)} holds no Ed25519 public key. It must be PEM, a JSON Web Key or a set of them.`,
    )
  }
  return keys
}

const webKey = z.object({ crv: z.literal('Ed25519'), x: z.string() })
const webKeySet = z.object({ keys: z.array(webKey) })

function publicKeysIn(text: string): string[] {
  if (/^[\w-]{43}$/.test(text)) return [text]
  if (text.startsWith('{')) {
    const value = parseJson(text)
    const set = webKeySet.safeParse(value)
    if (set.success) return set.data.keys.map(({ x }) => x)
    const one = webKey.safeParse(value)
    return one.success ? [one.data.x] : []
  }
  const pems = text.match(/-----BEGIN PUBLIC KEY-----[^-]+-----END PUBLIC KEY-----/g) ?? []
  return pems.flatMap((pem) => {
    try {
      const { crv, x } = createPublicKey(pem).export({ format: 'jwk' })
      return crv === 'Ed25519' && x !== undefined ? [x] : []
    } catch {
      return []
    }
  })
}
