// The protocol's times, in milliseconds, and how they hang together.
//
//   a silent member is out before its lease runs out, so that its death costs no reads:
//       DROP_AFTER + the store's p99 < LEASE − BEAT
//   a secondary promotes when its own last grant has run out: LEASE after the last beat at most.

/** A primary asks every member for a grant this often. */
export const BEAT_MS = 500;
/** A grant lasts this long, from its sending on the granter's clock. */
export const LEASE_MS = 3000;
/** The primary counts from the sending of its beat, and less than the granter by more than clocks drift. */
export const LEASE_HELD_MS = LEASE_MS * 0.98;
/** A member that has not answered for this long is dropped. */
export const DROP_AFTER_MS = 1200;
/** Where no client is to be heard either, only after this long: till then one of the others may have taken over. */
export const LONELY_DROP_AFTER_MS = 1.5 * LEASE_MS;
/** A member whose disk has not ended an operation for this long is dropped, however alive it is. */
export const SLOW_AFTER_MS = 4000;
/** A handover whose requests in flight do not end within this is given up. */
export const DRAIN_LIMIT_MS = 2000;
export const RECONNECT_MS = 200;
/** Between attempts at the store while it does not answer, and between looks at it while something is off. */
export const STORE_RETRY_MS = 500;
/** A replica that was dropped waits this long before it is taken up again; doubled each time it leaves soon again. */
export const HELD_OUT_MS = 1000;
/** That is: within this time of joining. */
export const FLAP_WITHIN_MS = 60_000;
/** One that does so again and again waits this long, doubled each time up to the limit (primary/hold-out.ts). */
export const FLAPPING_OUT_MS = 60_000;
export const FLAPPING_OUT_LIMIT_MS = 480_000;
/** A replica whose disk failed is asked again this often. */
export const FAILED_RETRY_MS = 5000;
export const TICK_MS = 100;
/** Hot extents cool after about this long without a write. */
export const COOL_AFTER_MS = 5000;
