// What every CSI request is checked for before anything is looked up: required fields, the specification's
// limits, sizes that a number can hold. All of it is INVALID (or OUT_OF_RANGE for sizes); an identifier of
// an odd shape is not: it is an identifier that nobody knows.

import { HoldfastError } from '../core/errors.ts';
import { BLOCK_BYTES, KIB, MAX_VOLUME_BYTES, MIN_VOLUME_BYTES, roundUp } from '../core/units.ts';
import type { CapacityRange } from './messages.ts';

/** The specification's limit for strings that it says nothing else about. */
const MAX_STRING_BYTES = 128;
const MAX_NODE_ID_BYTES = 256;
/** PATH_MAX without its final zero. */
const MAX_PATH_BYTES = 4095;
const MAX_MAP_BYTES = 4 * KIB;

export function requireName(name: string): void {
  requireString('name', name, MAX_STRING_BYTES);
}

export function requireVolumeId(request: { readonly volume_id: string }): void {
  requireString('volume_id', request.volume_id, MAX_STRING_BYTES);
}

export function requireNodeId(nodeId: string): void {
  requireString('node_id', nodeId, MAX_NODE_ID_BYTES);
}

export function requirePath(field: string, path: string): void {
  requireString(field, path, MAX_PATH_BYTES);
}

/** A path that something will be mounted on: nothing is mounted relative to wherever the daemon was started. */
export function requireAbsolutePath(field: string, path: string): void {
  requirePath(field, path);
  if (!path.startsWith('/')) throw invalid(`${field} must be an absolute path, not '${path}'`);
}

export function requirePresent<T>(field: string, value: T | null | undefined): T {
  if (value === null || value === undefined) throw invalid(`${field} is required`);
  return value;
}

export function requireMap(field: string, map: Readonly<Record<string, string>>): void {
  const bytes = Object.entries(map).reduce(
    (sum, [key, value]) => sum + Buffer.byteLength(key) + Buffer.byteLength(value),
    0,
  );
  if (bytes > MAX_MAP_BYTES)
    throw invalid(`${field} has ${bytes} bytes; at most ${MAX_MAP_BYTES} are allowed`);
}

function requireString(field: string, value: string, maxBytes: number): void {
  if (value === '') throw invalid(`${field} is required`);
  const bytes = Buffer.byteLength(value);
  if (bytes > maxBytes) throw invalid(`${field} has ${bytes} bytes; at most ${maxBytes} are allowed`);
}

/**
 * The size to make or grow to: exactly what is required, rounded up to whole blocks and to the least volume;
 * `defaultBytes`, or the limit if that is less, where nothing is required. Numbers that lost digits on their
 * way from int64 are far out of range here.
 */
export function requestedSizeBytes(range: CapacityRange | null | undefined, defaultBytes: number): number {
  const { required_bytes: requiredBytes, limit_bytes: limitBytes } = range ?? {
    required_bytes: 0,
    limit_bytes: 0,
  };
  if (requiredBytes < 0 || limitBytes < 0) throw invalid('required_bytes and limit_bytes cannot be negative');
  if (limitBytes > 0 && limitBytes < requiredBytes) {
    throw invalid(`limit_bytes (${limitBytes}) is less than required_bytes (${requiredBytes})`);
  }
  const mostBytes = limitBytes > 0 ? Math.min(limitBytes, MAX_VOLUME_BYTES) : MAX_VOLUME_BYTES;
  const sizeBytes =
    requiredBytes > 0
      ? roundUp(Math.max(requiredBytes, MIN_VOLUME_BYTES), BLOCK_BYTES)
      : Math.floor(Math.min(defaultBytes, mostBytes) / BLOCK_BYTES) * BLOCK_BYTES;
  if (sizeBytes < MIN_VOLUME_BYTES || sizeBytes > mostBytes) {
    throw new HoldfastError(
      'OUT_OF_RANGE',
      `no volume has between ${requiredBytes} and ${limitBytes} bytes: sizes are multiples of ${BLOCK_BYTES} ` +
        `from ${MIN_VOLUME_BYTES} to ${MAX_VOLUME_BYTES}`,
    );
  }
  return sizeBytes;
}

export function invalid(message: string): HoldfastError {
  return new HoldfastError('INVALID', message);
}
