// What daemons know of each other when machines die, stand still, and are cut off. Needs root, for the network.

import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { until } from '../daemon/daemon.fixture.ts';
import { TestCluster } from './cluster.ts';

/** Liveness is a lease of 15 s. */
const LOST_MS = 30_000;
const FOUND_MS = 30_000;

describe.skipIf(process.geteuid?.() !== 0)('three nodes (needs root)', () => {
  let cluster: TestCluster;

  beforeAll(async () => {
    cluster = await TestCluster.start({ nodes: ['a', 'b', 'c'] });
  });
  afterAll(async () => {
    await cluster[Symbol.asyncDispose]();
  });
  afterEach(async () => {
    await cluster.network.heal();
    await expectAlive('a', 'a,b,c', FOUND_MS);
  });

  const expectAlive = async (observer: string, names: string, timeoutMs: number): Promise<void> => {
    const alive = async (): Promise<boolean> => (await cluster.node(observer).alive()).join() === names;
    await until(`${observer} takes ${names} for alive`, alive, timeoutMs);
  };

  test('see and reach each other', async () => {
    for (const from of cluster.nodes) {
      expect(await from.alive()).toEqual(['a', 'b', 'c']);
      for (const to of cluster.nodes) expect(await from.problemWith(to.name)).toBe('');
    }
  });

  test('a way that is cut between two is said at both ends, while both live, and it heals by itself', async () => {
    const [a, c] = [cluster.node('a'), cluster.node('c')];
    for (const how of ['silent', 'refused'] as const) {
      await cluster.network.cut('a', 'b', how);
      expect(await a.problemWith('b')).toMatch(/"b" at .*(cannot be reached|not answered)/);
      expect(await cluster.node('b').problemWith('a')).toMatch(/"a" at .*(cannot be reached|not answered)/);
      expect(await c.problemWith('a')).toBe('');
      expect(await a.alive()).toEqual(['a', 'b', 'c']);
      await cluster.network.heal();
      expect(await a.problemWith('b')).toBe('');
    }
  });

  test('a way that is cut in one direction only is no way', async () => {
    await cluster.network.cutOneWay('b', 'a');
    expect(await cluster.node('a').problemWith('b')).not.toBe('');
    expect(await cluster.node('b').problemWith('a')).not.toBe('');
    expect(await cluster.node('c').problemWith('a')).toBe('');
  });

  test('a node that is killed is lost after a while, and is back as soon as its daemon serves', async () => {
    await cluster.node('b').kill();
    await expectAlive('a', 'a,c', LOST_MS);
    await cluster.node('b').start();
    await expectAlive('a', 'a,b,c', FOUND_MS);
    expect(await cluster.node('a').problemWith('b')).toBe('');
  });

  test('a node that stands still is lost like a dead one, and comes back when it goes on', async () => {
    cluster.node('b').freeze();
    await expectAlive('a', 'a,c', LOST_MS);
    cluster.node('b').thaw();
    await expectAlive('a', 'a,b,c', FOUND_MS);
    await expectAlive('b', 'a,b,c', FOUND_MS);
  });

  test('a node that is cut off from the store is lost for the others, and comes back', async () => {
    for (const how of ['silent', 'refused'] as const) {
      await cluster.cutFromStore('b', how);
      await expectAlive('a', 'a,c', LOST_MS);
      await cluster.network.heal();
      await expectAlive('a', 'a,b,c', FOUND_MS);
      await expectAlive('b', 'a,b,c', FOUND_MS);
    }
  });

  test('all outlive a store that stands still, and one that is killed and comes back', async () => {
    cluster.etcd.freeze();
    expect((await cluster.node('a').run('node', 'ls')).exitCode).not.toBe(0);
    cluster.etcd.thaw();
    for (const { name } of cluster.nodes) await expectAlive(name, 'a,b,c', FOUND_MS);
    await cluster.etcd.kill();
    expect((await cluster.node('a').run('node', 'ls')).exitCode).not.toBe(0);
    await cluster.etcd.start();
    for (const { name } of cluster.nodes) await expectAlive(name, 'a,b,c', FOUND_MS);
    for (const node of cluster.nodes) expect(await node.problemWith('a')).toBe('');
  });
});
