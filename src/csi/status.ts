// What the orchestrator is told when something failed: the one table from our codes to gRPC's.
//
// Sidecars and kubelet divide codes in two. After a non-final one (ABORTED, DEADLINE_EXCEEDED, UNAVAILABLE,
// RESOURCE_EXHAUSTED) they assume that the operation may have left something behind: they repeat it, or call
// its opposite. After a final one they forget it. So whatever may have left state is never final.

import { status } from '@grpc/grpc-js';
import { type ErrorCode, errorText, HoldfastError } from '../core/errors.ts';

const STATUS_OF: Readonly<Record<ErrorCode, status>> = {
  INVALID: status.INVALID_ARGUMENT,
  NOT_FOUND: status.NOT_FOUND,
  ALREADY_EXISTS: status.ALREADY_EXISTS,
  CONFLICT: status.FAILED_PRECONDITION,
  BUSY: status.ABORTED,
  NO_SPACE: status.RESOURCE_EXHAUSTED,
  OUT_OF_RANGE: status.OUT_OF_RANGE,
  LIMIT: status.RESOURCE_EXHAUSTED,
  // The node lacks something; UNIMPLEMENTED would say that the plugin lacks the call.
  UNSUPPORTED: status.FAILED_PRECONDITION,
  UNAVAILABLE: status.UNAVAILABLE,
  TIMEOUT: status.DEADLINE_EXCEEDED,
  CORRUPT: status.DATA_LOSS,
  IO: status.INTERNAL,
  INTERNAL: status.INTERNAL,
};

/** The text travels in an HTTP/2 header; what a command said at length is in the log. */
const MAX_DETAILS_CHARS = 1000;

export interface CsiStatus {
  readonly code: status;
  readonly details: string;
}

/** `mayLeaveState`: the call changes things step by step, so that a failure half-way is not final. */
export function statusOf(error: unknown, { mayLeaveState }: { mayLeaveState: boolean }): CsiStatus {
  const code = error instanceof HoldfastError ? error.code : 'INTERNAL';
  const mapped = STATUS_OF[code];
  const saysItFailedHalfWay = mapped === status.INTERNAL || mapped === status.DATA_LOSS;
  return {
    code: mayLeaveState && saysItFailedHalfWay ? status.ABORTED : mapped,
    details: errorText(error).slice(0, MAX_DETAILS_CHARS),
  };
}
