// The end of a run in which somebody puts the store back from an old snapshot and nobody notices but the copies:
// each of them has promised more than the store shows. Nothing may be served from then on by a daemon that
// starts; a person has to decide.

import type { StoredConfig } from '../../src/replication/config.ts';
import { Violation, type World } from './world.ts';

const HELD_AFTER_MS = 15_000;

/** The snapshot; undefined: this run has another end, or every snapshot is too new. */
export function arrangeRestore(world: World): StoredConfig | undefined {
  if (!world.shape.restoresStore) return undefined;
  const promises = world.hosts().map((node) => node.disk.highestPromise);
  const lowest = Math.min(...promises);
  // A copy that had promised no more than the snapshot shows would be right to believe it: that such a store is
  // another one is seen by its identity, outside the protocol.
  const old = world.store.past.filter(({ config }) => config.epoch < lowest);
  return old.at(-1 - world.random.faults.below(Math.min(old.length, 3)));
}

/** `runUntil`: goes on until that moment. */
export function endHeld(world: World, snapshot: StoredConfig, runUntil: (endMs: number) => void): void {
  const { schedule, random } = world;
  const isBumped = random.faults.chance(0.5);
  world.fault(
    `the store is put back to epoch ${snapshot.config.epoch}${isBumped ? ', above all revisions' : ''}`,
  );
  world.store.restore(snapshot, isBumped);
  for (const node of world.hosts()) schedule.after(random.faults.between(0, 6000), () => world.kill(node));
  runUntil(schedule.nowMs + HELD_AFTER_MS);
  for (const node of world.hosts()) {
    const state = node.process?.replica.state;
    if (node.process !== undefined && state !== 'held')
      throw new Violation(
        'invariant',
        `${node.name} is ${state} although it promised more than the store shows`,
      );
  }
}
