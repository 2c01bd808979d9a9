import type { Pages } from '../core/ports/pages.ts'
import { activityPage } from './activity-page.ts'
import { alreadyConnectedPage, confirmConnectPage } from './connect-page.ts'
import { connectionsPage } from './connections-page.ts'
import { problemPage, signedOutPage } from './problem-page.ts'
import { referencePage } from './reference-page.ts'
import { icon } from './icon.ts'
import { stylesheet } from './stylesheet.ts'

/** The pages that people see: HTML without scripts, every value escaped as it is written. */
export const pages: Pages = {
  connections: connectionsPage,
  confirmConnect: confirmConnectPage,
  alreadyConnected: alreadyConnectedPage,
  signedOut: signedOutPage,
  activity: activityPage,
  reference: referencePage,
  problem: problemPage,
  assets: [stylesheet, icon],
}
