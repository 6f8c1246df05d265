// The judge must itself find what is wrong, and nothing else: planted faults, and a search of all orders beside it.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type HistoryOptions, SectorHistory, type Shown } from './sector-history.ts';

function writeOf(history: SectorHistory, sector: number, isStable = false): number {
  const write = history.writeAsked(1, sector, 1);
  history.writeAcknowledged(write, isStable);
  return write.id;
}

function kinds(history: SectorHistory, sector: number, shown: Shown): string[] {
  const before = history.complaints.length;
  history.readAnswered(history.readAsked(sector), [shown]);
  return history.complaints.slice(before).map(({ kind }) => kind);
}

function flush(history: SectorHistory): void {
  history.flushAnswered(history.flushAsked());
}

describe('what the judge finds', () => {
  test('an acknowledged write that is lost', () => {
    const history = new SectorHistory();
    const first = writeOf(history, 3);
    const second = writeOf(history, 3);
    expect(kinds(history, 3, second)).toEqual([]);
    expect(kinds(history, 3, first)).not.toEqual([]);
    expect(kinds(history, 3, 'zeroes')).toEqual(['old']);
    expect(history.complaints.map(({ sector }) => sector)).toEqual([3, 3]);
  });

  test('a stale read, while older values could still be asked for', () => {
    const history = new SectorHistory();
    const first = writeOf(history, 0);
    const slow = history.readAsked(0);
    const second = writeOf(history, 0);
    expect(kinds(history, 0, first)).toEqual(['old']);
    history.readAnswered(slow, [first]);
    expect(history.complaints).toHaveLength(1);
    expect(kinds(history, 0, second)).toEqual([]);
  });

  test('a value that comes back after a newer one was read', () => {
    const history = new SectorHistory();
    const first = writeOf(history, 0);
    const unanswered = history.writeAsked(2, 0, 1);
    expect(kinds(history, 0, first)).toEqual([]);
    expect(kinds(history, 0, unanswered.id)).toEqual([]);
    expect(kinds(history, 0, first)).toEqual(['old']);
    expect(history.complaints[0]?.text).toBe(
      'sector 0: it shows write 1 of client 1, though write 2 of client 2 had been read there',
    );
  });

  test('an unanswered write that happens twice', () => {
    const history = new SectorHistory();
    const unanswered = history.writeAsked(2, 0, 1);
    expect(kinds(history, 0, unanswered.id)).toEqual([]);
    const next = writeOf(history, 0);
    expect(kinds(history, 0, next)).toEqual([]);
    expect(kinds(history, 0, unanswered.id)).not.toEqual([]);
  });

  test('a write of a client that is over, which happens after a newer read', () => {
    const history = new SectorHistory();
    const first = writeOf(history, 0);
    const late = history.writeAsked(2, 0, 1);
    expect(kinds(history, 0, first)).toEqual([]);
    history.writerFenced(2);
    expect(kinds(history, 0, first)).toEqual([]);
    expect(kinds(history, 0, late.id)).toEqual(['old']);
  });

  test('a value that nobody wrote, and a sector that is damaged', () => {
    const history = new SectorHistory();
    writeOf(history, 0);
    expect(kinds(history, 0, 77)).toEqual(['unknown']);
    expect(kinds(history, 0, { damage: 'torn' })).toEqual(['damaged']);
  });

  test('writes of zeroes that are lost, and values that zeroes had replaced', () => {
    const history = new SectorHistory();
    const first = writeOf(history, 0);
    history.writeAcknowledged(history.writeAsked(1, 0, 1, true), false);
    expect(kinds(history, 0, first)).toEqual(['old']);
    expect(kinds(history, 0, 'zeroes')).toEqual([]);
    writeOf(history, 0);
    expect(kinds(history, 0, 'zeroes')).toEqual(['old']);
  });

  test('after a power cut, a flushed write that is lost', () => {
    const history = new SectorHistory({ expectsPowerCuts: true });
    const first = writeOf(history, 0);
    const second = writeOf(history, 0);
    flush(history);
    const third = writeOf(history, 0);
    history.powerCut();
    expect(kinds(history, 0, first)).toEqual(['old']);
    expect(kinds(history, 0, 'zeroes')).toEqual(['old']);
    expect(kinds(history, 0, second)).toEqual([]);
    expect(kinds(history, 0, third)).toEqual(['old']);
  });

  test('after a power cut, a FUA write that is lost', () => {
    const history = new SectorHistory({ expectsPowerCuts: true });
    const first = writeOf(history, 0);
    writeOf(history, 0, true);
    history.powerCut();
    expect(kinds(history, 0, first)).toEqual(['old']);
  });

  test('after two power cuts, a value that was read and flushed between them and is lost', () => {
    const history = new SectorHistory({ expectsPowerCuts: true });
    const first = writeOf(history, 0);
    const second = writeOf(history, 0);
    history.powerCut();
    expect(kinds(history, 0, second)).toEqual([]);
    flush(history);
    history.powerCut();
    expect(kinds(history, 0, first)).toEqual(['old']);
    expect(kinds(history, 0, second)).toEqual([]);
  });
});

describe('what the judge allows', () => {
  test('an unanswered write happens, late, or never', () => {
    const history = new SectorHistory();
    const first = writeOf(history, 0);
    const late = history.writeAsked(2, 0, 1);
    const never = history.writeAsked(2, 0, 1);
    expect(kinds(history, 0, first)).toEqual([]);
    expect(kinds(history, 0, late.id)).toEqual([]);
    history.writeFailed(never);
    expect(kinds(history, 0, late.id)).toEqual([]);
  });

  test('of overlapping writes either lasts, and a read meanwhile shows any of them', () => {
    const history = new SectorHistory();
    const [one, other] = [history.writeAsked(1, 0, 1), history.writeAsked(1, 0, 1)];
    const read = history.readAsked(0);
    history.writeAcknowledged(other, false);
    history.writeAcknowledged(one, false);
    history.readAnswered(read, ['zeroes']);
    expect(kinds(history, 0, other.id)).toEqual([]);
  });

  test('after a power cut, everything that no flush had replaced', () => {
    for (const [shown, later] of [
      [1, 2],
      [2, 1],
    ] as const) {
      const history = new SectorHistory({ expectsPowerCuts: true });
      expect(writeOf(history, 0)).toBe(1);
      flush(history);
      expect(writeOf(history, 0)).toBe(2);
      expect(kinds(history, 0, 2)).toEqual([]);
      history.powerCut();
      expect(kinds(history, 0, shown)).toEqual([]);
      expect(kinds(history, 0, later)).toEqual(['old']);
    }
  });

  test('a flush covers only what was acknowledged before it was asked for', () => {
    const history = new SectorHistory({ expectsPowerCuts: true });
    const first = writeOf(history, 0, true);
    const asked = history.flushAsked();
    writeOf(history, 0);
    history.flushAnswered(asked);
    history.powerCut();
    expect(kinds(history, 0, first)).toEqual([]);
  });
});

test('a history that expects no power cut refuses to judge one', () => {
  expect(() => new SectorHistory().powerCut()).toThrow(/forgotten/);
});

// ---- beside a search of all orders

interface Operation {
  readonly value: number;
  readonly isWrite: boolean;
  readonly from: number;
  to: number;
  /** It may be left out. */
  isOptional: boolean;
}

/** Is there an order of all of them, within their times, in which every read shows the write before it? */
function hasOrder(operations: readonly Operation[], standing: number): boolean {
  if (operations.every(({ isOptional }) => isOptional)) return true;
  return operations.some((next) => {
    const others = operations.filter((operation) => operation !== next);
    // What had to be over before it began, and is left, cannot have happened any more.
    const left = others.filter(({ to }) => to >= next.from);
    if (others.some((other) => other.to < next.from && !other.isOptional)) return false;
    return next.isWrite ? hasOrder(left, next.value) : next.value === standing && hasOrder(left, standing);
  });
}

interface End {
  /** Which of those that are open. */
  readonly end: number;
  readonly how: 'answer' | 'fail';
  readonly value: number;
}
type Step = { readonly ask: 'write' | 'zeroes' | 'read' } | End;

const step = (asks: ('write' | 'zeroes' | 'read')[]): fc.Arbitrary<Step> =>
  fc.oneof(
    fc.record({ ask: fc.constantFrom(...asks) }),
    fc.record({
      end: fc.nat(3),
      how: fc.constantFrom('answer' as const, 'answer' as const, 'answer' as const, 'fail' as const),
      value: fc.nat(4),
    }),
  );

interface Open {
  readonly operation: Operation;
  end(step: End, now: number): void;
}

/** Plays the steps into a judge, and returns its verdict and the true one. */
function play(steps: readonly Step[], options: HistoryOptions = {}): { found: boolean; isRight: boolean } {
  const history = new SectorHistory(options);
  const operations: Operation[] = [];
  const open: Open[] = [];
  const values = [0];
  for (const [now, next] of steps.entries()) {
    if ('ask' in next) {
      if (open.length < 4 && operations.length < 8) open.push(ask(history, next.ask, now, values));
      const last = open.at(-1)?.operation;
      if (last?.isWrite && !operations.includes(last)) operations.push(last);
      continue;
    }
    const [ended] = open.splice(next.end % Math.max(1, open.length), 1);
    if (ended === undefined) continue;
    ended.end(next, now);
    if (!ended.operation.isWrite && next.how === 'answer')
      operations.push({ ...ended.operation, value: values[next.value % values.length] ?? 0, to: now });
  }
  return { found: history.complaints.length > 0, isRight: hasOrder(operations, 0) };
}

function ask(history: SectorHistory, what: 'write' | 'zeroes' | 'read', now: number, values: number[]): Open {
  const never = Number.POSITIVE_INFINITY;
  if (what === 'read') {
    const read = history.readAsked(0);
    return {
      operation: { value: -1, isWrite: false, from: now, to: never, isOptional: false },
      end: ({ how, value }) => {
        const shown = values[value % values.length] ?? 0;
        if (how === 'fail') history.readDropped(read);
        else history.readAnswered(read, [shown === 0 ? 'zeroes' : shown]);
      },
    };
  }
  const isZeroes = what === 'zeroes';
  const write = history.writeAsked(1, 0, 1, isZeroes);
  const operation: Operation = {
    value: isZeroes ? 0 : write.id,
    isWrite: true,
    from: now,
    to: never,
    isOptional: true,
  };
  if (!isZeroes) values.push(write.id);
  return {
    operation,
    end: ({ how }, endedAt) => {
      operation.to = endedAt;
      if (how === 'fail') history.writeFailed(write);
      else history.writeAcknowledged(write, false);
      operation.isOptional = how === 'fail';
    },
  };
}

const steps = (...asks: ('write' | 'zeroes' | 'read')[]) =>
  fc.array(step(asks), { minLength: 6, maxLength: 24, size: 'max' });

test.each([false, true])(
  'its verdict is that of a search of all orders (power cuts: %s)',
  (expectsPowerCuts) => {
    const verdicts = { right: 0, wrong: 0 };
    fc.assert(
      fc.property(steps('write', 'read'), (list) => {
        const { found, isRight } = play(list, { expectsPowerCuts });
        verdicts[isRight ? 'right' : 'wrong'] += 1;
        expect(found).toBe(!isRight);
      }),
      { numRuns: 4000, seed: 4711 },
    );
    expect(Math.min(verdicts.right, verdicts.wrong)).toBeGreaterThan(400);
  },
);

test('with writes of zeroes, which carry no id, it still complains of nothing that is right', () => {
  let found = 0;
  fc.assert(
    fc.property(steps('write', 'zeroes', 'read'), (list) => {
      const verdict = play(list);
      if (verdict.found) found += 1;
      expect(verdict.found && verdict.isRight).toBe(false);
    }),
    { numRuns: 4000, seed: 4711 },
  );
  expect(found).toBeGreaterThan(400);
});
