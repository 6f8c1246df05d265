import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  obstacleText,
  type PlacementNode,
  type PlacementPool,
  type PlacementWish,
  place,
  placementNodes,
  requirePlace,
} from '../../src/control/placement.ts';
import type { NodeView } from '../../src/control/nodes.ts';
import { newReplica, type VolumeRecord } from '../../src/control/records.ts';
import { GIB } from '../../src/core/units.ts';

function pool(changes: Partial<PlacementPool> = {}): PlacementPool {
  return {
    name: 'fast',
    totalBytes: 100 * GIB,
    availableBytes: 100 * GIB,
    reserveBytes: GIB,
    overcommitRatio: 1,
    provisionedBytes: 0,
    problem: null,
    ...changes,
  };
}

function node(name: string, changes: Partial<PlacementNode> = {}): PlacementNode {
  return {
    name,
    zone: null,
    labels: {},
    isAlive: true,
    lostAt: null,
    cordoned: false,
    draining: false,
    pools: [pool()],
    ...changes,
  };
}

function wish(changes: Partial<PlacementWish> = {}): PlacementWish {
  return { copies: 1, sizeBytes: 10 * GIB, writtenBytes: 0, ...changes };
}

const NAMES = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h'];

const namesOf = (placement: { chosen: readonly { node: string }[] }): string[] =>
  placement.chosen.map((found) => found.node);

describe('the reason against a node is', () => {
  const lostAt = '2026-11-22T10:00:00.000Z';
  test.each<[string, Partial<PlacementNode>, Partial<PlacementWish>]>([
    ['holds a copy already', { name: 'holder' }, {}],
    ['not alive', { isAlive: false }, {}],
    [`not alive since ${lostAt}`, { isAlive: false, lostAt, cordoned: true }, {}],
    ['cordoned', { cordoned: true, pools: [] }, {}],
    ['draining', { cordoned: true, draining: true }, {}],
    ['has no label disk=ssd', { labels: { disk: 'hdd' } }, { nodeLabels: { disk: 'ssd' } }],
    ['no pool named archive', {}, { pool: 'archive' }],
    ['has no pool', { pools: [] }, {}],
    ['pool fast is not open: not mounted', { pools: [pool({ problem: 'not mounted' })] }, {}],
    ['needs 10GiB, has room for 3GiB', { pools: [pool({ provisionedBytes: 97 * GIB })] }, {}],
    [
      'needs 5GiB on the disk now, has 3GiB',
      { pools: [pool({ availableBytes: 4 * GIB })] },
      { writtenBytes: 5 * GIB },
    ],
    ['needs 4KiB on the disk now, has 0B', { pools: [pool({ availableBytes: GIB })] }, {}],
  ])('%s', (text, changes, wanted) => {
    const { chosen, rejected } = place([node('a', changes)], ['holder'], wish(wanted));
    expect(chosen).toEqual([]);
    expect(rejected.map(({ obstacle }) => obstacleText(obstacle))).toEqual([text]);
  });

  test('given for all nodes in the error when there are too few', () => {
    const nodes = [node('b', { cordoned: true }), node('a', { pools: [] }), node('c')];
    expect(() => requirePlace(nodes, [], wish({ copies: 2 }))).toThrow(
      expect.objectContaining({
        code: 'NO_SPACE',
        message: expect.stringContaining(
          '2 nodes are needed for copies, and 1 can take one (a: has no pool; b: cordoned)',
        ),
        details: expect.objectContaining({ found: ['c'] }),
      }),
    );
    expect(requirePlace(nodes, [], wish())).toEqual([{ node: 'c', pool: 'fast' }]);
  });
});

describe('a choice', () => {
  test('goes to other zones before it goes to nodes with more room', () => {
    const small = [pool({ totalBytes: 50 * GIB })];
    const nodes = [
      node('a1', { zone: 'a' }),
      node('a2', { zone: 'a' }),
      node('b1', { zone: 'b', pools: small }),
    ];
    expect(namesOf(place(nodes, [], wish({ copies: 2 })))).toEqual(['a1', 'b1']);
    expect(namesOf(place(nodes, ['a1'], wish()))).toEqual(['b1']);
    expect(namesOf(place(nodes, ['a1', 'b1'], wish()))).toEqual(['a2']);
  });

  test('in the place of a copy that goes falls into the zone that loses it, on another node', () => {
    const nodes = [
      node('a1', { zone: 'a' }),
      node('a2', { zone: 'a', pools: [pool({ totalBytes: 50 * GIB })] }),
      node('b1', { zone: 'b' }),
      node('b2', { zone: 'b' }),
    ];
    expect(namesOf(place(nodes, ['b1'], wish({ leavingNodes: ['a1'] })))).toEqual(['a2']);
    // On nodes that differ in nothing else the first free one of all zones would be taken.
    expect(namesOf(place(nodes, ['a1', 'b1'], wish()))).toEqual(['b2']);
    const { rejected } = place(nodes, ['b1'], wish({ leavingNodes: ['a1'] }));
    expect(rejected.map(({ node: name }) => name)).toEqual(['a1', 'b1']);
  });

  test('begins with the preferred node, unless a copy is in its zone already', () => {
    const nodes = [node('a1', { zone: 'a' }), node('a2', { zone: 'a' }), node('b1', { zone: 'b' })];
    const preferred = wish({ copies: 2, preferredNode: 'a2' });
    expect(namesOf(place(nodes, [], preferred))).toEqual(['a2', 'b1']);
    expect(namesOf(place(nodes, ['a1'], { ...preferred, copies: 1 }))).toEqual(['b1']);
  });

  test('counts what was promised, not only what is free, and takes the pool with most room', () => {
    const nodes = [
      node('a', {
        pools: [pool({ provisionedBytes: 30 * GIB }), pool({ name: 'slow', provisionedBytes: 5 * GIB })],
      }),
      node('b', { pools: [pool({ provisionedBytes: 10 * GIB, availableBytes: 20 * GIB })] }),
      node('c', { pools: [pool({ provisionedBytes: 10 * GIB, overcommitRatio: 0.5 })] }),
    ];
    expect(place(nodes, [], wish({ copies: 3 })).chosen).toEqual([
      { node: 'a', pool: 'slow' },
      { node: 'b', pool: 'fast' },
      { node: 'c', pool: 'fast' },
    ]);
    expect(namesOf(place(nodes, [], wish({ copies: 3, pool: 'fast' })))).toEqual(['b', 'a', 'c']);
  });
});

test('what is promised in a pool is the sum of the volumes with a copy there, as large as they are to become', () => {
  const view: NodeView = {
    version: 1,
    ...node('a'),
    labels: {},
    id: '0'.repeat(32),
    address: null,
    pools: [{ ...pool() }, { ...pool({ name: 'slow' }) }],
    softwareVersion: '1',
    wire: { control: { min: 1, max: 1 }, peer: { min: 1, max: 1 } },
    bootId: 'b',
    process: '1'.repeat(32),
    startedAt: '2026-11-22T10:00:00.000Z',
  };
  const volume = (
    sizeBytes: number,
    targetSizeBytes: number,
    holder: string,
    poolName: string,
  ): VolumeRecord => ({
    version: 2,
    id: '2'.repeat(32),
    name: 'data',
    state: 'ready',
    coordinator: null,
    sizeBytes,
    targetSizeBytes,
    lineage: 'l',
    epoch: 1,
    primary: { replicaId: 'r', opening: null },
    inSync: [{ replicaId: 'r', incarnation: null }],
    replicas: [newReplica('r', holder, poolName)],
    attachment: { number: 0, node: null, readOnly: false, use: 'device' },
    durability: 'writeback',
    failureMode: 'soft',
    fileSystem: null,
    labels: {},
  });
  const volumes = [
    volume(GIB, 3 * GIB, 'a', 'fast'),
    volume(2 * GIB, 2 * GIB, 'a', 'fast'),
    volume(4 * GIB, 4 * GIB, 'a', 'slow'),
    volume(8 * GIB, 8 * GIB, 'b', 'fast'),
  ];
  const [found] = placementNodes([view], volumes);
  expect(found?.pools.map(({ name, provisionedBytes }) => [name, provisionedBytes / GIB])).toEqual([
    ['fast', 5],
    ['slow', 4],
  ]);
});

describe('for all clusters', () => {
  const anyPool = fc.record({
    name: fc.constantFrom('fast', 'slow'),
    totalBytes: fc.integer({ min: 5, max: 40 }).map((count) => count * GIB),
    availableBytes: fc.integer({ min: 2, max: 20 }).map((count) => count * GIB),
    reserveBytes: fc.constantFrom(0, GIB),
    overcommitRatio: fc.constantFrom(0.5, 1, 2),
    provisionedBytes: fc.integer({ min: 0, max: 10 }).map((count) => count * GIB),
    problem: fc.constantFrom(...Array.from({ length: 9 }, () => null), 'broken'),
  });
  const mostly = fc.integer({ min: 0, max: 14 }).map((drawn) => drawn > 0);
  const anyNode = fc.record({
    name: fc.constantFrom(...NAMES),
    zone: fc.constantFrom(null, 'z1', 'z2', 'z3'),
    labels: fc.constantFrom({}, { disk: 'ssd' }),
    isAlive: mostly,
    lostAt: fc.constant(null),
    cordoned: mostly.map((value) => !value),
    draining: mostly.map((value) => !value),
    pools: fc.uniqueArray(anyPool, { minLength: 1, maxLength: 2, selector: ({ name }) => name }),
  });
  const anyNodes = fc.uniqueArray(anyNode, { maxLength: 8, size: 'max', selector: ({ name }) => name });
  const anyHolders = fc.uniqueArray(fc.constantFrom(...NAMES), { maxLength: 2 });
  const anyWish = fc.record({
    copies: fc.integer({ min: 0, max: 6 }),
    sizeBytes: fc.integer({ min: 1, max: 10 }).map((count) => count * GIB),
    writtenBytes: fc.integer({ min: 0, max: 3 }).map((count) => count * GIB),
    pool: fc.constantFrom(undefined, 'fast'),
    nodeLabels: fc.constantFrom(...Array.from({ length: 6 }, () => undefined), { disk: 'ssd' }),
    preferredNode: fc.constantFrom(undefined, ...NAMES),
  });

  function holds(check: (nodes: PlacementNode[], holders: string[], wanted: PlacementWish) => void): void {
    fc.assert(fc.property(anyNodes, anyHolders, anyWish, check), { numRuns: 2000 });
  }

  const isRejected = (
    nodes: PlacementNode[],
    holders: string[],
    wanted: PlacementWish,
    name: string,
  ): boolean => place(nodes, holders, wanted).rejected.some((found) => found.node === name);

  const spread = (nodes: PlacementNode[], names: readonly string[]): number[] => {
    const counts = new Map<string, number>();
    for (const name of names) {
      const zone = nodes.find((found) => found.name === name)?.zone ?? '';
      counts.set(zone, (counts.get(zone) ?? 0) + 1);
    }
    return [...counts.values()].sort((a, b) => b - a);
  };

  function* subsets(names: readonly string[], count: number): Generator<string[]> {
    if (count === 0) yield [];
    for (const [index, first] of names.entries()) {
      if (count > 0) for (const rest of subsets(names.slice(index + 1), count - 1)) yield [first, ...rest];
    }
  }

  test('nobody is chosen who has something in the way, and nobody twice; too few only when there are no more', () => {
    holds((nodes, holders, wanted) => {
      const { chosen, rejected } = place(nodes, holders, wanted);
      const names = chosen.map((found) => found.node);
      expect(new Set(names).size).toBe(names.length);
      for (const { node: name, pool: poolName } of chosen) {
        const found = nodes.find((one) => one.name === name);
        expect(found).toMatchObject({ isAlive: true, cordoned: false, draining: false });
        expect(holders).not.toContain(name);
        const at = found?.pools.find((one) => one.name === poolName);
        if (at === undefined) throw new Error('the chosen pool is there');
        expect(at.totalBytes * at.overcommitRatio - at.provisionedBytes).toBeGreaterThanOrEqual(
          wanted.sizeBytes,
        );
        expect(at.availableBytes - at.reserveBytes).toBeGreaterThanOrEqual(wanted.writtenBytes);
        expect(at.problem).toBeNull();
        expect(wanted.pool ?? poolName).toBe(poolName);
      }
      expect(names.length).toBe(Math.min(wanted.copies, nodes.length - rejected.length));
      expect(rejected.every((found) => !names.includes(found.node))).toBe(true);
    });
  });

  test('no other choice spreads the copies better over the zones', () => {
    holds((nodes, holders, wanted) => {
      const { chosen, rejected } = place(nodes, holders, wanted);
      const eligible = nodes.map(({ name }) => name).filter((name) => !rejected.some((r) => r.node === name));
      const staying = holders.filter((name) => nodes.some((found) => found.name === name));
      const quality = (names: readonly string[]): string =>
        spread(nodes, [...staying, ...names])
          .map((count) => String(count).padStart(2, '0'))
          .join();
      const ours = quality(chosen.map((found) => found.node));
      for (const other of subsets(eligible, chosen.length)) {
        // Compared as the most crowded zone first: fewer there is better.
        expect(ours <= quality(other), `${ours} against ${quality(other)}`).toBe(true);
      }
    });
  });

  test('the order in which nodes and pools are told changes nothing', () => {
    holds((nodes, holders, wanted) => {
      const turned = nodes.map((found) => ({ ...found, pools: [...found.pools].reverse() })).reverse();
      expect(place(turned, [...holders].reverse(), wanted)).toEqual(place(nodes, holders, wanted));
    });
  });

  test('the preferred node is among the first when it can be and no copy is anywhere', () => {
    holds((nodes, _, wanted) => {
      const { preferredNode } = wanted;
      if (preferredNode === undefined || !nodes.some(({ name }) => name === preferredNode)) return;
      if (wanted.copies === 0 || isRejected(nodes, [], wanted, preferredNode)) return;
      expect(place(nodes, [], wanted).chosen[0]?.node).toBe(preferredNode);
    });
  });

  test('one more node, or more room on one, never makes fewer copies', () => {
    fc.assert(
      fc.property(anyNodes, anyHolders, anyWish, anyNode, (nodes, holders, wanted, another) => {
        const before = place(nodes, holders, wanted).chosen.length;
        const others = nodes.filter(({ name }) => name !== another.name);
        if (others.length === nodes.length) {
          expect(place([...nodes, another], holders, wanted).chosen.length).toBeGreaterThanOrEqual(before);
        }
        const roomier = nodes.map((found) => ({
          ...found,
          pools: found.pools.map((one) => ({
            ...one,
            totalBytes: one.totalBytes + GIB,
            availableBytes: one.availableBytes + GIB,
          })),
        }));
        expect(place(roomier, holders, wanted).chosen.length).toBeGreaterThanOrEqual(before);
      }),
      { numRuns: 1000 },
    );
  });
});
