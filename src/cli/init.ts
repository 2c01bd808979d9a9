import { mkdir, stat, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { CommandFailure } from './cli-error.ts'
import { type Command, type CommandContext, exitCodes } from './command.ts'
import { configTemplate, environmentTemplate } from './init-templates.ts'
import { printable } from './terminal-text.ts'

export const init: Command = {
  name: 'init',
  positionals: ['[DIR]'],
  summary: 'Write a commented onbehalf.yaml and .env.example.',
  help: `Writes both files into DIR (default: this directory). Existing files are left alone and said so;
--force replaces them.

Next: copy .env.example to .env, set its variables, put your own addresses into onbehalf.yaml, then
\`onbehalf config check\`.`,
  options: { force: { summary: 'Replace files that exist.' } },
  run: async (context) => {
    const directory = context.positionals[0] ?? '.'
    const target = resolve(context.cwd, directory)
    const files = [
      { name: 'onbehalf.yaml', text: configTemplate },
      { name: '.env.example', text: environmentTemplate },
    ]
    const existing = await existingOf(files.map(({ name }) => join(target, name)))
    if (existing.length > 0 && !context.options.has('force')) {
      for (const path of existing) context.output.err(`${printable(path)} exists already.\n`)
      context.output.err('Nothing was written. --force replaces what is there.\n')
      return exitCodes.failed
    }
    await write(context, target, files, existing)
    context.output.out(
      'Next: copy .env.example to .env, set its variables, put your own addresses into onbehalf.yaml, then run onbehalf config check.\n',
    )
    return exitCodes.good
  },
}

async function existingOf(paths: readonly string[]): Promise<readonly string[]> {
  const found = await Promise.all(
    paths.map(async (path) => {
      try {
        await stat(path)
        return [path]
      } catch {
        return []
      }
    }),
  )
  return found.flat()
}

async function write(
  { output }: CommandContext,
  target: string,
  files: readonly { readonly name: string; readonly text: string }[],
  existing: readonly string[],
): Promise<void> {
  try {
    await mkdir(target, { recursive: true })
    for (const { name, text } of files) {
      const path = join(target, name)
      const isReplaced = existing.includes(path)
      // Without --force a file that appeared meanwhile is left alone too.
      await writeFile(path, text, { flag: isReplaced ? 'w' : 'wx' })
      output.out(`${isReplaced ? 'Replaced' : 'Wrote'} ${printable(path)}\n`)
    }
  } catch {
    throw new CommandFailure(`Cannot write into ${printable(target)}.`)
  }
}
