import { describe, expect, test } from 'vitest';
import { FRAME_REFUSED, FRAME_REPLY } from '../../src/replication/frames.ts';
import { FLUSH, READ, WRITE } from '../../src/replication/requests.ts';
import { OTHER, OWN, ReplicaWorld, replicaOn } from './replica-world.ts';

const EIO = 5;
/** More than an opening has. */
const STEPS = 24;

const pair = {
  replicas: [replicaOn(OWN), replicaOn(OTHER)],
  inSync: [
    { replicaId: OWN, incarnation: null },
    { replicaId: OTHER, incarnation: null },
  ],
};

/** `led`: the other copy is the primary, and its stream comes as soon as it is taken. */
function worldOf(set: 'sole' | 'pair' | 'led'): ReplicaWorld {
  if (set === 'sole') return new ReplicaWorld();
  const world = new ReplicaWorld({
    config: set === 'pair' ? pair : { ...pair, primary: { replicaId: OTHER, opening: 'f'.repeat(32) } },
  });
  world.onHello = () => world.welcomeStream();
  return world;
}

/** Ends the oldest thing that is under way, or lets time pass. */
function step(world: ReplicaWorld): void {
  const [next] = world.waiting();
  if (next !== undefined) world.end(next);
  else {
    world.nowMilliseconds += 100;
    world.replica.tick();
  }
}

describe('a replica that is stopped', () => {
  test.each(['sole', 'pair', 'led'] as const)('stays so at every moment of its opening (%s)', (set) => {
    for (let count = 0; count < STEPS; count++) {
      const world = worldOf(set);
      for (let done = 0; done < count; done++) step(world);
      if (set === 'led') world.openStream(1);
      let stops = 0;
      let onDisk: string[] = [];
      world.replica.stop(() => {
        stops += 1;
        onDisk = world.waiting().filter((what) => !['store', 'swap', 'greeting', 'answer'].includes(what));
      });
      world.openSession(7);
      world.openStream(2);
      world.pass(2000);
      expect(stops, `after ${count} steps`).toBe(1);
      expect(onDisk, 'nothing is on its way to the disk').toEqual([]);
      expect(world.replica.state).toBe('stopped');
      expect(world.openLinks()).toEqual([]);
      world.replica.configRead('gone');
      world.replica.storeChanged();
      world.pass(4000);
      expect(world.replica.state).toBe('stopped');
      expect(world.table.freeCount).toBe(world.table.capacity);
    }
  });

  test('keeps the clean mark that it was found with, if it never found out who it is', () => {
    const world = worldOf('sole');
    world.replica.stop(() => undefined);
    world.pass(2000);
    expect(world.superblocks).toEqual([]);
  });

  test('is marked clean, if it had a part', () => {
    const world = worldOf('sole');
    world.pass(1000);
    world.replica.stop(() => undefined);
    world.pass(1000);
    expect(world.superblocks.at(-1)?.cleanMark).toEqual({ epoch: world.stored.config.epoch });
  });

  test('has cooled what nobody waits for, before it is marked', () => {
    const world = worldOf('sole');
    world.pass(1000);
    const link = world.openSession(1);
    world.request(link, 1, WRITE, 0, 4096);
    world.pass(300);
    const { extents } = world.replica.copy;
    expect(extents.hotExtents()).toContain(0);
    const { length } = world.superblocks;
    world.replica.stop(() => undefined);
    world.settle('merge');
    expect(world.waiting()).toEqual(['merge']);
    expect(world.superblocks).toHaveLength(length);
    world.pass(1000);
    expect(extents.hotExtents()).toEqual([]);
    expect([...extents.bits]).toEqual([0]);
    expect(world.superblocks.at(-1)?.cleanMark).toEqual({ epoch: world.stored.config.epoch });
  });

  test('leaves hot what other copies have not answered', () => {
    const world = worldOf('pair');
    world.pass(1000);
    const link = world.openSession(1);
    world.otherWrites = undefined;
    world.request(link, 1, WRITE, 0, 4096);
    world.pass(300);
    world.replica.stop(() => undefined);
    world.pass(1000);
    expect(world.replica.state).toBe('stopped');
    expect(world.replica.copy.extents.hotExtents()).toContain(0);
    expect(world.replica.copy.suspects()).toEqual([{ offsetBytes: 0, lengthBytes: 4096 }]);
  });

  test.each([
    ['a merge that fails', (world: ReplicaWorld) => world.end('merge', EIO)],
    ['a disk that takes long', (world: ReplicaWorld) => world.pass(3000, 'merge')],
  ])('is marked although its extents stay hot, after %s', (_, happens) => {
    const world = worldOf('sole');
    world.pass(1000);
    world.request(world.openSession(1), 1, WRITE, 0, 4096);
    world.pass(300);
    let isStopped = false;
    world.replica.stop(() => {
      isStopped = true;
    });
    world.settle('merge');
    happens(world);
    world.pass(1000);
    expect(isStopped).toBe(true);
    expect(world.superblocks.at(-1)?.cleanMark).toEqual({ epoch: world.stored.config.epoch });
  });

  test('has read what it read of its tables', () => {
    const world = worldOf('pair');
    world.stored = {
      ...world.stored,
      config: { ...world.stored.config, inSync: [{ replicaId: OWN, incarnation: null }] },
    };
    world.pass(1000, 'stamps');
    expect(world.waiting()).toEqual(['stamps']);
    let isStopped = false;
    world.replica.stop(() => {
      isStopped = true;
    });
    world.pass(1000, 'stamps');
    expect(isStopped).toBe(false);
    world.end('stamps');
    world.pass(1000);
    expect(isStopped).toBe(true);
  });
});

describe('a copy whose superblock cannot be written', () => {
  test('is closed without the mark', () => {
    const world = worldOf('sole');
    world.pass(1000);
    const { length } = world.superblocks;
    let isStopped = false;
    world.replica.stop(() => {
      isStopped = true;
    });
    world.settle('superblock');
    world.pass(200, 'superblock');
    world.end('superblock', EIO);
    world.pass(1000);
    expect(isStopped).toBe(true);
    expect(world.superblocks).toHaveLength(length);
  });

  test('can be closed when it failed before, whatever it was about to promise', () => {
    for (let count = 0; count < STEPS; count++) {
      const world = worldOf('led');
      for (let done = 0; done < count; done++) step(world);
      world.openStream(1);
      world.pass(300, 'superblock');
      if (!world.waiting().includes('superblock')) continue;
      world.end('superblock', EIO);
      world.pass(300);
      const link = world.openStream(2);
      expect(world.sentOn(link, FRAME_REFUSED)).toEqual([
        expect.objectContaining({ message: expect.objectContaining({ reason: 'failed' }) }),
      ]);
      let isStopped = false;
      world.replica.stop(() => {
        isStopped = true;
      });
      world.pass(2000);
      expect(isStopped, `after ${count} steps`).toBe(true);
    }
  });

  test('gives back what it took in a stream whose promise fails', () => {
    const world = worldOf('led');
    world.pass(1000);
    const link = world.openStream(1);
    world.pass(300);
    world.raiseEpoch(link);
    world.streamWrite(link, 1);
    world.pass(300, 'superblock');
    expect(world.table.freeCount).toBe(world.table.capacity - 1);
    world.end('superblock', EIO);
    world.pass(300);
    expect(world.table.freeCount).toBe(world.table.capacity);
    expect(world.openLinks()).toEqual([]);
  });

  test('answers with errors, if it is the only one', () => {
    const world = worldOf('sole');
    world.pass(1000);
    const link = world.openSession(1);
    expect(world.request(link, 1, WRITE, 0, 4096)).toBe(true);
    world.changeStored((config) => ({ ...config, epoch: config.epoch + 1, durability: 'writethrough' }));
    world.pass(200, 'superblock', 'write');
    expect(world.request(link, 2, READ, 0, 4096)).toBe(true);
    expect(world.request(link, 3, FLUSH, 0, 0)).toBe(true);
    world.pass(200, 'superblock');
    expect(world.sentOn(link, FRAME_REPLY)).toEqual([]);
    world.end('superblock', EIO);
    world.pass(500);
    expect(world.request(link, 4, READ, 0, 4096)).toBe(true);
    world.pass(500);
    const replies = world.sentOn(link, FRAME_REPLY).map(({ sequence, errno }) => [sequence, errno]);
    expect(replies.toSorted(([a = 0], [b = 0]) => a - b)).toEqual([1, 2, 3, 4].map((tag) => [tag, EIO]));
    expect(world.table.freeCount).toBe(world.table.capacity);
  });
});
