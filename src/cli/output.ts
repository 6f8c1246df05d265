// What commands print: one JSON value with --json, a table on a terminal, tab-separated lines elsewhere.
// Results go to standard output, errors to standard error.

import Table from 'cli-table3';
import { type HoldfastError, isHoldfastError } from '../core/errors.ts';
import { EXIT_CODE } from './api-errors.ts';

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

export function printLine(text: string): void {
  process.stdout.write(`${text}\n`);
}

export function printTable(head: readonly string[], rows: readonly (readonly string[])[]): void {
  if (!process.stdout.isTTY) {
    for (const row of rows) printLine(row.join('\t'));
    return;
  }
  const blank = { top: '', 'top-mid': '', 'top-left': '', 'top-right': '', bottom: '', 'bottom-mid': '' };
  const table = new Table({
    head: [...head],
    chars: { ...blank, 'bottom-left': '', 'bottom-right': '', left: '', 'left-mid': '', mid: '' },
    style: { head: ['bold'], 'padding-left': 0, 'padding-right': 2 },
  });
  table.options.chars = { ...table.options.chars, 'mid-mid': '', right: '', 'right-mid': '', middle: '' };
  for (const row of rows) table.push([...row]);
  printLine(table.toString());
}

/** Prints the error and returns the exit code that goes with it. */
export function reportError(error: unknown, asJson: boolean): number {
  const known: Pick<HoldfastError, 'code' | 'message' | 'details'> = isHoldfastError(error)
    ? error
    : {
        code: 'INTERNAL',
        message: error instanceof Error ? (error.stack ?? error.message) : String(error),
        details: {},
      };
  const { code, message, details } = known;
  process.stderr.write(
    asJson ? `${JSON.stringify({ error: { code, message, details } })}\n` : `holdfast: ${message}\n`,
  );
  return EXIT_CODE[code];
}
