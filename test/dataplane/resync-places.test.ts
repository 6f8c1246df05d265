import { expect, test } from 'vitest';
import { ResyncPlaces } from '../../src/dataplane/cluster/resync-places.ts';

test('the threads of a node share its places: as many as the limit, half as many for copies that need everything', () => {
  const memory = ResyncPlaces.allocate(3);
  const [one, other] = [new ResyncPlaces(memory), new ResyncPlaces(memory)];
  expect([one, other, one, other, one].map((places) => places.take(false, false))).toEqual([
    true,
    true,
    true,
    false,
    false,
  ]);
  expect([one, other, one].map((places) => places.take(true, false))).toEqual([true, true, false]);
  other.giveBack(false);
  expect([one.take(false, false), other.take(false, false)]).toEqual([true, false]);
  other.giveBack(true);
  expect([one.take(true, false), other.take(true, false)]).toEqual([true, false]);
});

test('what requests wait for is never refused, and counts', () => {
  const places = new ResyncPlaces(ResyncPlaces.allocate(1));
  expect([places.take(false, true), places.take(false, true), places.take(false, false)]).toEqual([
    true,
    true,
    false,
  ]);
  places.giveBack(false);
  expect(places.take(false, false)).toBe(false);
  places.giveBack(false);
  expect(places.take(false, false)).toBe(true);
});
