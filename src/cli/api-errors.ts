// Error codes at this edge: to gRPC statuses and back, and to exit codes. The code itself travels in a
// trailer, so nothing is lost on the way from the daemon to the person.

import { Metadata, type ServiceError, status } from '@grpc/grpc-js';
import { z } from 'zod';
import { type ErrorCode, HoldfastError, isHoldfastError } from '../core/errors.ts';
import { InvariantError } from '../core/invariant.ts';

const TRAILER = 'holdfast-error-bin';

const GRPC_STATUS: Readonly<Record<ErrorCode, status>> = {
  INVALID: status.INVALID_ARGUMENT,
  NOT_FOUND: status.NOT_FOUND,
  ALREADY_EXISTS: status.ALREADY_EXISTS,
  CONFLICT: status.FAILED_PRECONDITION,
  BUSY: status.ABORTED,
  NO_SPACE: status.RESOURCE_EXHAUSTED,
  OUT_OF_RANGE: status.OUT_OF_RANGE,
  LIMIT: status.RESOURCE_EXHAUSTED,
  UNSUPPORTED: status.UNIMPLEMENTED,
  UNAVAILABLE: status.UNAVAILABLE,
  TIMEOUT: status.DEADLINE_EXCEEDED,
  CORRUPT: status.DATA_LOSS,
  IO: status.INTERNAL,
  INTERNAL: status.INTERNAL,
};

/** sysexits(3) where it has a word for it; docs/cli.md lists them. */
export const EXIT_CODE: Readonly<Record<ErrorCode, number>> = {
  INVALID: 64,
  OUT_OF_RANGE: 64,
  CORRUPT: 65,
  NOT_FOUND: 66,
  UNAVAILABLE: 69,
  INTERNAL: 70,
  ALREADY_EXISTS: 73,
  NO_SPACE: 73,
  IO: 74,
  BUSY: 75,
  TIMEOUT: 75,
  CONFLICT: 76,
  LIMIT: 76,
  UNSUPPORTED: 78,
};

const trailerSchema = z.object({
  code: z.enum(Object.keys(GRPC_STATUS) as [ErrorCode, ...ErrorCode[]]),
  details: z.record(z.string(), z.unknown()),
});

/** What a handler threw, as gRPC sends it. A broken invariant is not answered: it must stop the process. */
export function toServiceError(error: unknown): Partial<ServiceError> {
  if (error instanceof InvariantError) throw error;
  const known = isHoldfastError(error)
    ? error
    : new HoldfastError('INTERNAL', `unexpected: ${String(error)}; the daemon's log has more`);
  const metadata = new Metadata();
  metadata.set(TRAILER, Buffer.from(JSON.stringify({ code: known.code, details: known.details })));
  return { code: GRPC_STATUS[known.code], details: known.message, metadata };
}

/** A failed call, as the caller's HoldfastError. `path` is the API socket. */
export function fromServiceError(error: ServiceError, path: string): HoldfastError {
  const trailer = error.metadata?.get(TRAILER)[0];
  if (trailer instanceof Buffer) {
    const { code, details } = trailerSchema.parse(JSON.parse(trailer.toString()));
    return new HoldfastError(code, error.details, { cause: error, details });
  }
  if (error.code === status.UNAVAILABLE) {
    return new HoldfastError(
      'UNAVAILABLE',
      `no daemon answers at ${path}; start one with 'holdfast daemon', or name its socket with --api or HOLDFAST_API`,
      { cause: error },
    );
  }
  if (error.code === status.DEADLINE_EXCEEDED) {
    return new HoldfastError(
      'TIMEOUT',
      `the daemon at ${path} has not answered in time; what was asked may still happen: look with 'holdfast volume ls'`,
      { cause: error },
    );
  }
  return new HoldfastError('INTERNAL', `the call to ${path} failed: ${error.message}`, { cause: error });
}
