// Time is a port: the pure layers never read a clock of their own.

export interface Clock {
  /** Milliseconds of a clock that never goes back and runs on through suspend (CLOCK_BOOTTIME). */
  nowMs(): number;
}
