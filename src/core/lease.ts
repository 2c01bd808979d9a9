/**
 * How long a replica that asks a token endpoint has it to itself: the time until it must have begun to send, the 10 s that an
 * answer may take, and a second for storing it. Whoever died or stands still is taken over from after that.
 */
export const leaseSeconds = 14

/** Nothing is sent later than this after a claim: its answer could come when somebody else asks already. */
export const sendWithinMs = 3000
