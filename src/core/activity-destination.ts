import type { Secret } from './secret.ts'

/** A place that gets the records of the activity log too. */
export type ActivityDestination = {
  readonly kind: 'webhook' | 'otlp'
  readonly url: string
  readonly secret: Secret | undefined
  readonly allowPrivateNetwork: boolean
  /** Where it stands in the configuration: `audit.destinations[0]`. */
  readonly setting: string
}
