import { describe, expect, test } from 'vitest';
import { BLOCK_BYTES, EXTENT_BYTES, GENERATION_BLOCK_BYTES } from '../../src/core/units.ts';
import { BLOCKS_PER_EXTENT, WrittenBlocks } from '../../src/replication/written-blocks.ts';

/** Which blocks of an extent's generation block are chosen. */
function chosen(written: WrittenBlocks, extent: number, generationBlock: number): number[] {
  const needed = new Uint8Array(BLOCKS_PER_EXTENT);
  written.choose(extent, generationBlock, needed);
  return [...needed.keys()].filter((block) => needed[block] === 1);
}

describe('the blocks that were written since an epoch', () => {
  test('are known one by one, partial ones whole', () => {
    const written = new WrittenBlocks(7);
    written.note(3 * EXTENT_BYTES + GENERATION_BLOCK_BYTES + BLOCK_BYTES + 512, BLOCK_BYTES);
    expect(chosen(written, 3, 1)).toEqual([17, 18]);
  });

  test('are known across extents', () => {
    const written = new WrittenBlocks(7);
    written.note(EXTENT_BYTES - BLOCK_BYTES, 2 * BLOCK_BYTES);
    expect(chosen(written, 0, 63)).toEqual([1023]);
    expect(chosen(written, 1, 0)).toEqual([0]);
  });

  test('are all of a generation block that it knows nothing of', () => {
    const written = new WrittenBlocks(7);
    written.note(0, BLOCK_BYTES);
    expect(chosen(written, 0, 1)).toEqual(Array.from({ length: 16 }, (_, at) => 16 + at));
    expect(chosen(written, 5, 0)).toHaveLength(16);
  });

  test('say nothing of what was written before', () => {
    const written = new WrittenBlocks(7);
    expect([6, 7, 8].map((epoch) => written.covers(epoch))).toEqual([false, true, true]);
  });

  test('are known of whole extents, and of those beside them as far as they go', () => {
    const written = new WrittenBlocks(7);
    written.note(2 * EXTENT_BYTES - BLOCK_BYTES, EXTENT_BYTES + 2 * BLOCK_BYTES);
    const all = Array.from({ length: 16 }, (_, at) => at);
    expect(chosen(written, 1, 63)).toEqual([1023]);
    expect(chosen(written, 2, 0)).toEqual(all);
    expect(chosen(written, 2, 63)).toEqual(all.map((at) => 63 * 16 + at));
    expect(chosen(written, 3, 0)).toEqual([0]);
  });

  test('are all of extents that are noted as a whole, which are as many as any others', () => {
    const written = new WrittenBlocks(7, 3);
    written.note(0, BLOCK_BYTES);
    written.noteExtents([0, 5]);
    expect([0, 5].map((extent) => chosen(written, extent, 0).length)).toEqual([16, 16]);
    written.noteExtents([0, 5, 6]);
    expect(written.covers(7)).toBe(true);
    written.noteExtents([5, 7]);
    expect(written.covers(7)).toBe(false);
  });

  test('are forgotten when they are too many', () => {
    const written = new WrittenBlocks(7, 100);
    for (let extent = 0; extent < 100; extent++) written.note(extent * EXTENT_BYTES, BLOCK_BYTES);
    expect(written.covers(7)).toBe(true);
    expect(chosen(written, 99, 0)).toEqual([0]);
    written.note(100 * EXTENT_BYTES, BLOCK_BYTES);
    expect(written.covers(7)).toBe(false);
    written.note(0, BLOCK_BYTES);
    expect(written.covers(7)).toBe(false);
  });
});
