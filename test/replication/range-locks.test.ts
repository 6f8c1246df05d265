import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { RangeLocks } from '../../src/replication/range-locks.ts';
import { READ, RequestTable, WRITE } from '../../src/replication/requests.ts';

const BLOCK = 4096;

/** One request at a time is admitted or finished; what holds a lock, and the order of arrival, is kept aside. */
class Bench {
  readonly table = new RequestTable(64);
  readonly holding: number[] = [];
  readonly waiting: number[] = [];
  readonly locks = new RangeLocks(this.table, (request) => {
    this.waiting.splice(this.waiting.indexOf(request), 1);
    this.hold(request);
  });

  admit(kind: number, startBlock: number, blockCount: number): void {
    const request = this.table.take();
    if (request < 0) return;
    this.table.kind[request] = kind;
    this.table.offsetBytes[request] = startBlock * BLOCK;
    this.table.lengthBytes[request] = blockCount * BLOCK;
    const mustWait = [...this.holding, ...this.waiting].some((other) => this.conflict(request, other));
    const isGranted = this.locks.acquire(request);
    expect(isGranted).toBe(!mustWait);
    if (isGranted) this.hold(request);
    else this.waiting.push(request);
  }

  finish(position: number): void {
    const request = this.holding.splice(position % Math.max(this.holding.length, 1), 1)[0];
    if (request === undefined) return;
    this.locks.release(request);
    this.table.release(request);
  }

  conflict(a: number, b: number): boolean {
    const { offsetBytes, lengthBytes, kind } = this.table;
    const end = (request: number): number => (offsetBytes[request] ?? 0) + (lengthBytes[request] ?? 0);
    const overlap = (offsetBytes[a] ?? 0) < end(b) && (offsetBytes[b] ?? 0) < end(a);
    return overlap && !(kind[a] === READ && kind[b] === READ);
  }

  hold(request: number): void {
    for (const other of this.holding) expect(this.conflict(request, other)).toBe(false);
    this.holding.push(request);
  }
}

describe('range locks', () => {
  it('never let two conflicting requests hold, never let one overtake an overlapping earlier one, and grant all in the end', () => {
    const step = fc.oneof(
      fc.record({
        kind: fc.constantFrom(READ, WRITE),
        start: fc.integer({ min: 0, max: 12 }),
        count: fc.integer({ min: 1, max: 6 }),
      }),
      fc.record({ finish: fc.nat(63) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
        const bench = new Bench();
        for (const one of steps) {
          if ('finish' in one) bench.finish(one.finish);
          else bench.admit(one.kind, one.start, one.count);
          for (const [index, request] of bench.waiting.entries()) {
            const ahead = [...bench.holding, ...bench.waiting.slice(0, index)];
            expect(ahead.some((other) => bench.conflict(request, other))).toBe(true);
          }
        }
        while (bench.holding.length > 0) bench.finish(0);
        expect(bench.waiting).toEqual([]);
        expect(bench.locks.isIdle).toBe(true);
      }),
      { numRuns: 500 },
    );
  });

  it('lock whole blocks: two writes of different bytes of one block exclude each other', () => {
    const bench = new Bench();
    const first = bench.table.take();
    bench.table.kind[first] = WRITE;
    bench.table.offsetBytes[first] = 100;
    bench.table.lengthBytes[first] = 10;
    const second = bench.table.take();
    bench.table.kind[second] = WRITE;
    bench.table.offsetBytes[second] = 4000;
    bench.table.lengthBytes[second] = 10;
    expect(bench.locks.acquire(first)).toBe(true);
    expect(bench.locks.acquire(second)).toBe(false);
  });
});
