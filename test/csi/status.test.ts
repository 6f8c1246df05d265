import { status } from '@grpc/grpc-js';
import { expect, test } from 'vitest';
import { type ErrorCode, HoldfastError } from '../../src/core/errors.ts';
import { statusOf } from '../../src/csi/status.ts';

/** Codes after which sidecars and kubelet assume that something may be left: they repeat or undo. */
const NON_FINAL = [
  status.CANCELLED,
  status.DEADLINE_EXCEEDED,
  status.UNAVAILABLE,
  status.ABORTED,
  status.RESOURCE_EXHAUSTED,
];

test.each<[ErrorCode, status, status]>([
  ['INVALID', status.INVALID_ARGUMENT, status.INVALID_ARGUMENT],
  ['NOT_FOUND', status.NOT_FOUND, status.NOT_FOUND],
  ['ALREADY_EXISTS', status.ALREADY_EXISTS, status.ALREADY_EXISTS],
  ['CONFLICT', status.FAILED_PRECONDITION, status.FAILED_PRECONDITION],
  ['BUSY', status.ABORTED, status.ABORTED],
  ['NO_SPACE', status.RESOURCE_EXHAUSTED, status.RESOURCE_EXHAUSTED],
  ['OUT_OF_RANGE', status.OUT_OF_RANGE, status.OUT_OF_RANGE],
  ['LIMIT', status.RESOURCE_EXHAUSTED, status.RESOURCE_EXHAUSTED],
  ['UNSUPPORTED', status.FAILED_PRECONDITION, status.FAILED_PRECONDITION],
  ['UNAVAILABLE', status.UNAVAILABLE, status.UNAVAILABLE],
  ['TIMEOUT', status.DEADLINE_EXCEEDED, status.DEADLINE_EXCEEDED],
  ['CORRUPT', status.DATA_LOSS, status.ABORTED],
  ['IO', status.INTERNAL, status.ABORTED],
  ['INTERNAL', status.INTERNAL, status.ABORTED],
])('%s is told as gRPC status %d, and as %d by a call that changes something', (code, reading, changing) => {
  const error = new HoldfastError(code, 'text');
  expect(statusOf(error, { mayLeaveState: false })).toEqual({ code: reading, details: 'text' });
  expect(statusOf(error, { mayLeaveState: true })).toEqual({ code: changing, details: 'text' });
});

test('an error that nobody expected is never final in a call that changes something', () => {
  const { code } = statusOf(new TypeError('oops'), { mayLeaveState: true });
  expect(NON_FINAL).toContain(code);
  expect(statusOf('not even an error', { mayLeaveState: false }).code).toBe(status.INTERNAL);
});

test('a long text is cut: it travels in a header', () => {
  const error = new HoldfastError('IO', 'x'.repeat(100_000));
  expect(statusOf(error, { mayLeaveState: true }).details.length).toBeLessThan(2000);
});
