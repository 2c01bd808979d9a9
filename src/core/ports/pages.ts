import type { AuthorizationErrorLabel } from '../callback-parameters.ts'
import type { ActivityFilter, ActivityRecord } from './activity-store.ts'
import type { ConnectionView } from './broker-services.ts'

/** Writes the pages that people see: data in, a whole HTML document out. Decides nothing and asks nobody. */
export interface Pages {
  connections(view: ConnectionsPageView): Promise<string>
  confirmConnect(view: ConfirmConnectView): Promise<string>
  alreadyConnected(view: { readonly viewer: Viewer; readonly displayName: string }): Promise<string>
  signedOut(): Promise<string>
  activity(view: ActivityPageView): Promise<string>
  /** Renders an OpenAPI 3.1 document and the problem codes. */
  reference(view: {
    readonly document: ApiDocument
    readonly problems: readonly ProblemEntry[]
  }): Promise<string>
  problem(view: ProblemPageView): Promise<string>
  /** What the pages load. A path changes with its text, so a browser may keep it for ever. */
  readonly assets: readonly PageAsset[]
}

export type PageAsset = {
  readonly path: string
  readonly contentType: string
  readonly text: string
}

/** Who is signed in, as every page names them. */
export type Viewer = {
  /** E-mail where known, else the user id: display text only. */
  readonly name: string
  readonly issuer: string
  readonly admin: boolean
  /** For the forms of the page. */
  readonly csrfToken: string
}

export type ConnectionsPageView = {
  readonly viewer: Viewer
  readonly connections: readonly ConnectionView[]
  /** How many characters a key may have that a person stores. */
  readonly longestKey: number
  /** What just happened. */
  readonly notice:
    | { readonly kind: 'connected' | 'disconnected'; readonly displayName: string }
    | {
        readonly kind: 'failed'
        readonly displayName: string | undefined
        /** One of our own words for it. */
        readonly label: AuthorizationErrorLabel
      }
    | undefined
}

export type ConfirmConnectView = {
  readonly viewer: Viewer
  /** Path that the form is sent to. */
  readonly action: string
  readonly displayName: string
  /** Absent when confirming signs the person in again at their own identity provider. */
  readonly authorizationServerHost: string | undefined
  readonly scopes: readonly string[]
}

export type ActivityPageView = {
  readonly viewer: Viewer
  readonly records: readonly ActivityRecord[]
  /** As it was sent, to fill the form again. */
  readonly filter: ActivityFilter
  /** Query of the next page, without the question mark; undefined on the last. */
  readonly nextQuery: string | undefined
  /** Query of an export of all that fits, likewise; undefined where nothing was searched. */
  readonly exportQuery: string | undefined
  /** The filter field that was refused; nothing was searched then. */
  readonly refusedField: string | undefined
}

export type ProblemPageView = {
  readonly viewer: Viewer | undefined
  readonly status: number
  readonly code: string
  readonly title: string
  readonly detail: string | undefined
  readonly requestId: string
  /** Where to go on. */
  readonly next: { readonly href: string; readonly text: string } | undefined
}

export type ProblemEntry = {
  readonly code: string
  readonly status: number
  readonly title: string
  /** What to do about it. */
  readonly remedy: string
}

/** What the reference page reads of an OpenAPI 3.1 document. */
export type ApiDocument = {
  readonly info: { readonly title: string; readonly version: string }
  readonly paths?: Readonly<Record<string, Readonly<Record<string, ApiOperation>>>>
  readonly components?: { readonly schemas?: Readonly<Record<string, ApiSchema>> }
}

export type ApiOperation = {
  readonly tags?: readonly string[]
  readonly summary?: string
  readonly description?: string
  readonly security?: readonly Readonly<Record<string, readonly string[]>>[]
  readonly parameters?: readonly ApiParameter[]
  readonly requestBody?: { readonly required?: boolean; readonly content: ApiContent }
  readonly responses: Readonly<
    Record<string, { readonly description: string; readonly content?: ApiContent }>
  >
}

export type ApiParameter = {
  readonly name: string
  readonly in: string
  readonly required?: boolean
  readonly description?: string
  readonly schema?: ApiSchema
}

export type ApiContent = Readonly<Record<string, { readonly schema?: ApiSchema }>>

export type ApiSchema = {
  readonly $ref?: string
  readonly type?: string | readonly string[]
  readonly format?: string
  readonly enum?: readonly unknown[]
  readonly description?: string
  readonly items?: ApiSchema
  readonly properties?: Readonly<Record<string, ApiSchema>>
  readonly required?: readonly string[]
}
