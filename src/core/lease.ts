/**
 * How long a replica that asks a token endpoint has it to itself, where a second request harms nobody: the time until it must have
 * begun to send, the 10 s that an answer may take, and one to store it. Whoever died or stands still is taken over from after that.
 */
export const leaseSeconds = 14

/**
 * The same where a second request may end the grant: as long as a take-over within 30 s allows. Whoever stood still, or was started
 * again and finds the answer in its journal, comes back within it, and nobody is lost.
 */
export const strictLeaseSeconds = 24

const answerSeconds = 10
const storeSeconds = 1

/** Nothing is sent later than this after a claim: its answer could come when somebody else asks already. */
export function sendWithinMs(lease: number): number {
  return (lease - answerSeconds - storeSeconds) * 1000
}
