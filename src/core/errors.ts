// Expected failures, as data. Every layer throws HoldfastError with a code of this one union; tables
// beside the edges map the code to a gRPC status, a CSI status, an errno or an exit code.
// `message` is for people and names the next step.

export type ErrorCode =
  | 'INVALID' // the request itself is wrong; repeating it cannot help
  | 'NOT_FOUND'
  | 'ALREADY_EXISTS' // same name, other contents
  | 'CONFLICT' // the state forbids it now (in use, published elsewhere, attached)
  | 'BUSY' // an operation on the same object is in flight; try again
  | 'NO_SPACE' // the pool (or the overcommit limit) has no room
  | 'OUT_OF_RANGE' // a size that this volume or pool cannot have
  | 'LIMIT' // a configured limit is reached (attachments of a node, …)
  | 'UNSUPPORTED' // this machine or version cannot do it; the message names the remedy
  | 'UNAVAILABLE' // store, daemon or device does not answer now; the outcome may be unknown
  | 'TIMEOUT' // a deadline ran out; the outcome may be unknown
  | 'CORRUPT' // metadata cannot be read or is from another version
  | 'IO' // a disk or socket reported an error
  | 'INTERNAL';

export class HoldfastError extends Error {
  override readonly name = 'HoldfastError';
  readonly code: ErrorCode;
  /** Facts a caller may act on (`{haveEpoch, needEpoch}`); never secrets. */
  readonly details: Readonly<Record<string, unknown>>;

  constructor(
    code: ErrorCode,
    message: string,
    options: { cause?: unknown; details?: Record<string, unknown> } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.details = options.details ?? {};
  }
}

export function isHoldfastError(error: unknown, code?: ErrorCode): error is HoldfastError {
  return error instanceof HoldfastError && (code === undefined || error.code === code);
}

/** The text of anything thrown, for logs and messages. */
export function errorText(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
