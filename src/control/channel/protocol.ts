// What daemons say to each other beside the data.

/** Both ends must share one. */
export const CONTROL_VERSIONS = { min: 1, max: 1 };
