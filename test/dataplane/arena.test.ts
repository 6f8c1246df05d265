import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { Arena } from '../../src/dataplane/arena.ts';

const KIB = 1024;
const START = 64 * KIB;
const TOTAL = 1024 * KIB;
const LARGEST = 256 * KIB;

describe('the arena', () => {
  it('gives buffers that never overlap, are aligned to their size, and come back whole', () => {
    const step = fc.oneof(
      fc.record({ bytes: fc.integer({ min: 1, max: LARGEST }) }),
      fc.record({ free: fc.nat(99) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 200 }), (steps) => {
        const arena = new Arena(START, TOTAL, LARGEST);
        const held: { offset: number; bytes: number }[] = [];
        for (const one of steps) {
          if ('free' in one) {
            const freed = held.splice(one.free % Math.max(held.length, 1), 1)[0];
            if (freed !== undefined) arena.free(freed.offset);
            continue;
          }
          const bytes = Arena.bufferBytes(one.bytes);
          const offset = arena.allocate(one.bytes);
          if (offset < 0) continue;
          expect((offset - START) % bytes).toBe(0);
          expect(offset >= START && offset + bytes <= START + TOTAL).toBe(true);
          for (const other of held) {
            expect(offset + bytes <= other.offset || other.offset + other.bytes <= offset).toBe(true);
          }
          held.push({ offset, bytes });
          expect(arena.freeBytes).toBe(TOTAL - held.reduce((sum, one) => sum + one.bytes, 0));
        }
        for (const one of held) arena.free(one.offset);
        // Everything has merged again: the largest buffers are all there.
        for (let i = 0; i < TOTAL / LARGEST; i++)
          expect(arena.allocate(LARGEST)).toBeGreaterThanOrEqual(START);
        expect(arena.allocate(1)).toBe(-1);
      }),
      { numRuns: 300 },
    );
  });

  it('refuses to free what is not allocated', () => {
    const arena = new Arena(START, TOTAL, LARGEST);
    const offset = arena.allocate(8 * KIB);
    arena.free(offset);
    expect(() => {
      arena.free(offset);
    }).toThrow('only an allocated buffer is freed');
  });
});
