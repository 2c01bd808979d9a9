import type { ActivityVerdict } from '../core/ports/activity-proof.ts'
import type { KeyStatus, RecordedRewrap } from '../core/ports/key-reports.ts'
import type { EndpointCheck } from '../oauth/endpoint-check.ts'
import type { PersonSignIns } from '../oauth/person-sign-in.ts'
import type { ProbeReport } from '../oauth/upstream-probe.ts'

/** Where a command writes: results to `out`, everything said about them to `err`. */
export type CliOutput = {
  readonly out: (text: string) => void
  readonly err: (text: string) => void
  /** A person looks at `err`, so that progress may be shown there. */
  readonly isWatched: boolean
  /** Of the terminal that shows `out`; undefined where it is none. */
  readonly columns: number | undefined
}

/** Something the configuration must change, or should know about. `path` is empty for the file as a whole. */
export type ConfigurationProblem = { readonly path: string; readonly message: string }

/** The configured keys beside the database. */
export type KeyReport = {
  /** Configured ids in the order of the file, then those that are used and missing. */
  readonly keys: readonly KeyStatus[]
  /** Why `serve` would refuse them, a sentence each; empty when it would not. */
  readonly problems: readonly string[]
}

/**
 * A configuration that passed every check, and what can be done with it. The functions may throw OperatorError, whose message
 * is printed, and BrokerError storage_unavailable.
 */
export interface Configuration {
  readonly warnings: readonly ConfigurationProblem[]
  readonly summary: {
    readonly issuers: number
    readonly services: number
    readonly upstreams: number
    readonly database: 'embedded' | 'postgresql'
  }

  /** Serves until it is told to stop; gives the exit code. Writes log lines to `out`, warnings among them. */
  serve(output: CliOutput): Promise<number>

  /** Brings the database to this version, under a lock. Gives how many migrations were applied. */
  migrate(): Promise<number>

  /** What discovery finds about an upstream of the file; undefined where there is none of that name. */
  probe(upstream: string): Promise<ProbeReport | undefined>

  /** Never refuses because of the keys. */
  keyStatus(): Promise<KeyReport>

  /** Checks the whole activity log, against signed checkpoints from elsewhere too. May throw what `checkpointLines` throws. */
  verifyActivity(options: {
    readonly checkpointLines?: AsyncIterable<string>
    /** 32 bytes each, base64url: the only ones to be believed. */
    readonly publicKeys?: readonly string[]
    readonly onProgress: (done: number, total: number) => void
  }): Promise<ActivityVerdict>

  /** Moves every sealed value to the first key, until it is told to stop. Refuses keys that `serve` would refuse. */
  rewrapKeys(onProgress: (rows: number, rowsToMove: number) => void): Promise<RecordedRewrap>
}

/** What the commands use of the rest of the program; `main.ts` hands it in. */
export interface CliServices {
  /** Of the package. */
  readonly version: string

  /** Reads and checks a configuration file; touches neither network nor database. `path` is absolute. */
  configure(options: {
    readonly path: string
    readonly env: CliEnvironment
  }): Promise<
    | { readonly configuration: Configuration }
    | { readonly problems: readonly ConfigurationProblem[] }
  >

  /** A new encryption key: the base64 of 32 random bytes. */
  generateKey(): string
  /** The JSON Schema of the configuration file. */
  configSchema(): Record<string, unknown>

  /** Gives the exit code. */
  demo(
    options: { readonly once: boolean; readonly port: number | undefined },
    output: CliOutput,
  ): Promise<number>

  /** What discovery finds about an MCP server at a URL. */
  probe(url: string, allowPrivateNetwork: boolean): Promise<ProbeReport>

  /** What a client without a token sees of any protected MCP endpoint. */
  checkEndpoint(url: string, allowPrivateNetwork: boolean): Promise<readonly EndpointCheck[]>

  readonly signIns: PersonSignIns

  /** Shows a person a page, where that can be done; false where it cannot. */
  openBrowser(url: URL): boolean

  /** For the REST commands; `globalThis.fetch` does. */
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>
}

export type CliEnvironment = Readonly<Record<string, string | undefined>>
