import { expect, test } from 'vitest';
import { MIB } from '../../src/core/units.ts';
import { SpaceReport } from '../../src/dataplane/space-report.ts';

const RESERVE = 64 * MIB;
const MARGIN = RESERVE / 4;

test('a pool that hovers at its reserve is told of once', () => {
  const report = new SpaceReport(RESERVE);
  let told = 0;
  for (let nowMs = 0; nowMs < 600_000; nowMs += 100) {
    const isFull = nowMs % 200 === 0;
    if (report.look(isFull ? 0 : MIB, isFull, nowMs)) told += 1;
  }
  expect(told).toBe(1);
});

test('it has room again only with the margin, and full and room come ten seconds apart at least', () => {
  const report = new SpaceReport(RESERVE);
  expect(report.look(0, true, 1000)).toBe(true);
  expect(report.look(MARGIN, false, 10_900)).toBe(false);
  expect(report.look(MARGIN - 1, false, 11_000)).toBe(false);
  expect(report.look(MARGIN, false, 11_000)).toBe(true);
  expect(report.look(0, true, 20_900)).toBe(false);
  expect(report.look(0, true, 21_000)).toBe(true);
});

test('room at first is no news, and without a reserve there is a margin too', () => {
  const report = new SpaceReport(0);
  expect(report.look(1000 * MIB, false, 0)).toBe(false);
  expect(report.look(0, true, 0)).toBe(true);
  expect(report.look(4 * MIB - 1, false, 20_000)).toBe(false);
  expect(report.look(4 * MIB, false, 20_000)).toBe(true);
});
