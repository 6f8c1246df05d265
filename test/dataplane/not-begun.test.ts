import { describe, expect, it } from 'vitest';
import { LIMIT_TICKS, NotBegun } from '../../src/dataplane/not-begun.ts';
import { TAG_DATA, TAG_FLUSH, TAG_RECEIVE } from '../../src/dataplane/tags.ts';

const ECANCELED = 125;
const EIO = 5;

function world(): { notBegun: NotBegun; tick: () => [number, number, number][]; told: () => number } {
  let toldCount = 0;
  const notBegun = new NotBegun(() => void (toldCount += 1));
  return {
    notBegun,
    tick: () => {
      const given: [number, number, number][] = [];
      notBegun.tick((...entry) => given.push(entry));
      return given;
    },
    told: () => toldCount,
  };
}

describe('entries that were never begun', () => {
  it('are handed back a tick later, once', () => {
    const { notBegun, tick } = world();
    expect(notBegun.keeps(7, TAG_FLUSH, -ECANCELED)).toBe(true);
    expect(tick()).toEqual([[7, TAG_FLUSH, -ECANCELED]]);
    expect(tick()).toEqual([]);
  });

  it('are those of files, and what was begun is none of them', () => {
    const { notBegun, tick } = world();
    expect(notBegun.keeps(1, TAG_RECEIVE, -ECANCELED)).toBe(false);
    expect(notBegun.keeps(1, TAG_FLUSH, -EIO)).toBe(false);
    expect(notBegun.keeps(1, TAG_DATA, 4096)).toBe(false);
    expect(tick()).toEqual([]);
  });

  it('are errors after four seconds without a worker, which is told before', () => {
    const { notBegun, tick, told } = world();
    for (let count = 0; count < LIMIT_TICKS; count += 1) {
      notBegun.keeps(7, TAG_FLUSH, -ECANCELED);
      expect(tick()).toEqual([[7, TAG_FLUSH, -ECANCELED]]);
    }
    expect(told()).toBe(1);
    notBegun.keeps(7, TAG_FLUSH, -ECANCELED);
    expect(tick()).toEqual([[7, TAG_FLUSH, -EIO]]);
  });

  it('count from the beginning when one was begun in between', () => {
    const { notBegun, tick } = world();
    for (let count = 0; count < 2 * LIMIT_TICKS; count += 1) {
      if (count !== LIMIT_TICKS - 5) notBegun.keeps(7, TAG_FLUSH, -ECANCELED);
      for (const [, , result] of tick()) expect(result).toBe(-ECANCELED);
      if (count > LIMIT_TICKS + 20) break;
    }
  });
});
