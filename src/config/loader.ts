import { dirname, resolve } from 'node:path'
import type * as z from 'zod'
import type { BrokerConfig } from './broker-config.ts'
import { buildConfig } from './build-config.ts'
import { describeIssue, nearestSetting } from './describe-issue.ts'
import {
  describeFileFault,
  expandPlaceholders,
  type ExpansionSources,
  isMissingFile,
} from './expand.ts'
import { nodeAt } from './field-guide.ts'
import { parseDocument } from './parse-document.ts'
import {
  type Finding,
  formatPath,
  overlaps,
  type Path,
  type Problem,
  type Report,
  toProblem,
  valueAt,
} from './problem.ts'
import { type ConfigFile, configFileSchema } from './schema.ts'
import { withStandIns } from './stand-in.ts'

export type LoadedConfig =
  | { readonly config: BrokerConfig; readonly warnings: readonly Problem[] }
  | { readonly problems: readonly Problem[] }

/** Reads the file and loads it. `path` is absolute. */
export async function loadConfigFile(
  options: { readonly path: string } & ExpansionSources,
): Promise<LoadedConfig> {
  let text: string
  try {
    text = await options.readFile(options.path)
  } catch (error) {
    const fault = `the configuration file cannot be read: ${describeFileFault(error)}`
    const message = isMissingFile(error) ? `${fault}; \`onbehalf init\` writes one` : fault
    return { problems: [{ path: '', message }] }
  }
  return loadConfig({ ...options, text })
}

/**
 * Loads a configuration: parse, expand, check against the schema, check over several fields. Gives every problem at once,
 * without the value of any setting, or the configuration with what its author should know. `path` is the file's own,
 * absolute: relative paths in the file start at its directory.
 */
export async function loadConfig(
  options: { readonly text: string; readonly path: string } & ExpansionSources,
): Promise<LoadedConfig> {
  const document = parseDocument(options.text)
  if ('findings' in document) return { problems: document.findings.map(toProblem) }
  const expansion = await expandPlaceholders(document.value, {
    env: options.env,
    readFile: (file) => options.readFile(resolve(dirname(options.path), file)),
  })
  const value = expansion.value

  const findings = [...expansion.findings]
  const file = checkAgainstSchema(value, findings)
  if (file === undefined) return { problems: listed(findings) }

  const wrong = unreliable(findings, value)
  const problems = [...findings]
  const warnings: Finding[] = []
  const report: Report = {
    problem(path, message, reads = [path]) {
      if (wrong.some((at) => reads.some((read) => overlaps(at, read)))) return
      problems.push({ path, message })
    },
    warning(path, message) {
      warnings.push({ path, message })
    },
  }
  const config = buildConfig(file, options.path, report)
  return problems.length > 0
    ? { problems: listed(problems) }
    : { config, warnings: listed(warnings) }
}

function listed(findings: readonly Finding[]): readonly Problem[] {
  return findings
    .map(toProblem)
    .toSorted((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0))
}

/**
 * Adds what the schema finds. Gives the file, with stand-ins where it is wrong so that the other checks can still run;
 * undefined where there can be none.
 */
function checkAgainstSchema(
  value: Record<string, unknown>,
  findings: Finding[],
): ConfigFile | undefined {
  const checked = configFileSchema.safeParse(value)
  if (checked.success) return checked.data
  const unset = findings.map(({ path }) => path)
  const found = checked.error.issues.flatMap((issue) => describeIssue(issue, value))
  for (const finding of found) {
    // A setting whose variable is not set is missing for a reason that was given already.
    const isMissing = valueAt(value, finding.path) === undefined
    if (isMissing && unset.some((path) => overlaps(path, finding.path))) continue
    // One sentence a setting: a value that fails one rule often fails the next.
    const name = formatPath(finding.path)
    if (!findings.some(({ path }) => formatPath(path) === name)) findings.push(finding)
  }
  const patched = withStandIns(value, checked.error.issues.flatMap(pathsOf))
  const again = configFileSchema.safeParse(patched)
  return again.success ? again.data : undefined
}

/** Where the value at fault stands; for unknown keys, each of them. */
function pathsOf(issue: z.core.$ZodIssue): Path[] {
  const path = issue.path.filter((segment) => typeof segment !== 'symbol')
  return issue.code === 'unrecognized_keys' ? issue.keys.map((key) => [...path, key]) : [path]
}

/** The settings whose value cannot be relied on, also those left out that an unknown key was probably meant to be. */
function unreliable(findings: readonly Finding[], value: Record<string, unknown>): Path[] {
  return findings.flatMap(({ path }) => {
    const key = path.at(-1)
    if (typeof key !== 'string' || nodeAt(path) !== undefined) return [path]
    const block = path.slice(0, -1)
    const near = nearestSetting(block, key)
    const isMeant = near !== undefined && valueAt(value, [...block, near]) === undefined
    return isMeant ? [path, [...block, near]] : [path]
  })
}
