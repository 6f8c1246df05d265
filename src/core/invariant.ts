// Assertions that stay on in production. A broken invariant means that this process must not go on
// serving: the caller lets the error escape, the state is logged and the process stops.

export class InvariantError extends Error {
  override readonly name = 'InvariantError';
}

/** Throws InvariantError unless `condition` holds. `saidPositively` states what should be true. */
export function invariant(condition: unknown, saidPositively: string): asserts condition {
  if (!condition) throw new InvariantError(`broken invariant: ${saidPositively}`);
}
