// Checks of what a peer sent as JSON, by hand: this layer is pure and has no schema library. A check returns the
// value with its type, built anew from the fields it knows (a newer peer's further ones are ignored), or throws
// CORRUPT with the place of what is missing or wrong.

import { HoldfastError } from '../core/errors.ts';

/** `where`: the value's place in the message, for people. */
export type Check<T> = (value: unknown, where: string) => T;

export function refuse(where: string, value: unknown, wanted: string): never {
  const found = value === undefined ? 'missing' : `not ${wanted}`;
  throw new HoldfastError(
    'CORRUPT',
    `a peer's message cannot be used: ${where} is ${found}; run the same version of Holdfast on both nodes`,
    { details: { field: where } },
  );
}

/** One check for each field: a field that the type has and the table lacks does not compile. */
export function record<T extends object>(checks: { readonly [K in keyof T]-?: Check<T[K]> }): Check<T> {
  const fields = Object.entries(checks) as [string, Check<unknown>][];
  return (value, where) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) {
      return refuse(where, value, 'an object');
    }
    const given = new Map(Object.entries(value));
    const checked = fields.map(([name, check]) => [name, check(given.get(name), `${where}.${name}`)]);
    return Object.fromEntries(checked) as T;
  };
}

export function list<T>(check: Check<T>, maxCount: number): Check<readonly T[]> {
  return (value, where) => {
    if (!Array.isArray(value) || value.length > maxCount) {
      return refuse(where, value, `a list of at most ${maxCount}`);
    }
    return value.map((item: unknown, index) => check(item, `${where}[${index}]`));
  };
}

export function orNull<T>(check: Check<T>): Check<T | null> {
  return (value, where) => (value === null ? null : check(value, where));
}

export function oneOf<const T extends string>(...words: readonly T[]): Check<T> {
  return (value, where) =>
    words.find((word) => word === value) ?? refuse(where, value, `one of ${words.join(', ')}`);
}

/** A whole number of [min, max]. */
export function whole(min: number, max: number): Check<number> {
  return (value, where) =>
    typeof value === 'number' && Number.isSafeInteger(value) && value >= min && value <= max
      ? value
      : refuse(where, value, `a whole number from ${min} to ${max}`);
}

/** Not empty, and of at most so many bytes in UTF-8: what the superblock and the logs have room for. */
export function text(maxBytes: number): Check<string> {
  return (value, where) =>
    typeof value === 'string' &&
    value.length > 0 &&
    value.length <= maxBytes &&
    value.isWellFormed() &&
    new TextEncoder().encode(value).length <= maxBytes
      ? value
      : refuse(where, value, `a text of 1 to ${maxBytes} bytes`);
}

export const flag: Check<boolean> = (value, where) =>
  typeof value === 'boolean' ? value : refuse(where, value, 'true or false');
