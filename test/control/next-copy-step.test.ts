import { describe, expect, test } from 'vitest';
import { type CopyFacts, nextCopyStep } from '../../src/control/next-copy-step.ts';
import { newReplica, type ReplicaRecord, type VolumeRecord } from '../../src/control/records.ts';

function copy(node: string, changes: Partial<ReplicaRecord> = {}): ReplicaRecord {
  return { ...newReplica(`on ${node}`, node, 'pool'), bootId: 'boot', ...changes };
}
const newcomer = (node: string): ReplicaRecord => copy(node, { needsFullCopy: true });
const leaving = (node: string): ReplicaRecord => copy(node, { leaving: true });

/** The first is the primary. */
function volume(
  replicas: readonly ReplicaRecord[],
  inSync: readonly string[],
  attachedTo: string | null = null,
): VolumeRecord {
  return {
    version: 2,
    id: 'v',
    name: 'data',
    state: 'ready',
    coordinator: null,
    sizeBytes: 8192,
    targetSizeBytes: 8192,
    lineage: 'l',
    epoch: 7,
    primary: { replicaId: replicas[0]?.id ?? '', opening: 'o' },
    inSync: inSync.map((node) => ({ replicaId: `on ${node}`, incarnation: 'i' })),
    replicas: [...replicas],
    attachment: { number: 1, node: attachedTo, readOnly: false, use: 'device' },
    durability: 'writeback',
    failureMode: 'soft',
    fileSystem: null,
    labels: {},
  };
}

type NodeFacts = { isAlive: boolean; draining: boolean; isLost?: boolean };
const alive: NodeFacts = { isAlive: true, draining: false };
const draining: NodeFacts = { ...alive, draining: true };
const AWAY: NodeFacts = { ...alive, isAlive: false };
const LOST: NodeFacts = { ...AWAY, isLost: true };

function facts(nodes: Record<string, NodeFacts>, changes: Partial<CopyFacts> = {}): CopyFacts {
  const known = new Map(Object.entries({ a: alive, b: alive, c: alive, d: alive, ...nodes }));
  return {
    nodes: known,
    lost: new Set([...known].filter(([, { isLost }]) => isLost === true).map(([name]) => name)),
    isMaintenance: false,
    mayFill: true,
    ...changes,
  };
}

describe('a copy on a node that is away', () => {
  const record = volume([copy('a'), copy('b', { outSince: 6 })], ['a']);

  test('is left alone for the delay, so that a reboot starts no copying', () => {
    expect(nextCopyStep(record, facts({ b: AWAY }))).toBeUndefined();
  });

  test('is replaced after it', () => {
    expect(nextCopyStep(record, facts({ b: LOST }))).toEqual({
      type: 'replace',
      replica: record.replicas[1],
    });
  });

  test('is replaced where no node of that name is known any more', () => {
    const gone = facts({});
    const nodes = new Map([...gone.nodes].filter(([name]) => name !== 'b'));
    expect(nextCopyStep(record, { ...gone, nodes })).toMatchObject({ type: 'replace' });
  });

  test('is never replaced in maintenance, nor while enough others are being filled', () => {
    const lost = { b: LOST };
    expect(nextCopyStep(record, facts(lost, { isMaintenance: true }))).toBeUndefined();
    expect(nextCopyStep(record, facts(lost, { mayFill: false }))).toBeUndefined();
  });

  test('is not replaced while nobody could fill another: the primary is away too', () => {
    const lost = LOST;
    expect(nextCopyStep(record, facts({ a: lost, b: lost }))).toBeUndefined();
  });

  test('is replaced also where the failure mode keeps it named', () => {
    const named = volume([copy('a'), copy('b')], ['a', 'b']);
    expect(nextCopyStep(named, facts({ b: LOST }))).toMatchObject({ type: 'replace' });
  });
});

describe('a copy whose replacement is being filled', () => {
  const away = leaving('b');
  const record = volume([copy('a'), away, newcomer('c')], ['a']);
  const lost = LOST;

  test('stays until that one is in sync, and then goes', () => {
    expect(nextCopyStep(record, facts({ b: lost }))).toBeUndefined();
    const filled = volume([copy('a'), away, copy('c')], ['a', 'c']);
    expect(nextCopyStep(filled, facts({ b: lost }))).toEqual({ type: 'drop', replica: away });
  });

  test('stays instead of it when it is back in sync before', () => {
    const back = volume([copy('a'), away, newcomer('c')], ['a', 'b']);
    const step = { type: 'cancel', newcomer: newcomer('c'), stays: away };
    expect(nextCopyStep(back, facts({}))).toEqual(step);
    const first = volume([copy('a'), away, newcomer('c')], ['a']);
    expect(nextCopyStep(first, facts({}))).toBeUndefined();
  });

  test('is as before when that one is lost as well', () => {
    expect(nextCopyStep(record, facts({ b: lost, c: lost }))).toEqual({
      type: 'cancel',
      newcomer: newcomer('c'),
      stays: away,
    });
  });
});

describe('a node that is to be drained', () => {
  test('gives its primaries away first, to where the volume is used if it can', () => {
    const record = volume([copy('a'), copy('b'), copy('c')], ['a', 'b', 'c'], 'c');
    expect(nextCopyStep(record, facts({ a: draining }))).toEqual({ type: 'move', toNode: 'c' });
    expect(nextCopyStep(record, facts({ a: draining, c: draining }))).toEqual({ type: 'move', toNode: 'b' });
  });

  test('has its copies replaced, its only ones too, before it loses them', () => {
    const only = volume([copy('a')], ['a']);
    expect(nextCopyStep(only, facts({ a: draining }))).toEqual({ type: 'replace', replica: copy('a') });
    const filling = volume([leaving('a'), newcomer('b')], ['a']);
    expect(nextCopyStep(filling, facts({ a: draining }))).toBeUndefined();
    const filled = volume([leaving('a'), copy('b')], ['a', 'b']);
    expect(nextCopyStep(filled, facts({ a: draining }))).toEqual({ type: 'move', toNode: 'b' });
    const moved = { ...filled, primary: { replicaId: 'on b', opening: 'o' } };
    expect(nextCopyStep(moved, facts({ a: draining }))).toEqual({ type: 'drop', replica: leaving('a') });
  });

  test('loses a copy that has been replaced also when people change their mind by then', () => {
    const filled = volume([leaving('a'), copy('b')], ['a', 'b']);
    expect(nextCopyStep(filled, facts({}))).toEqual({ type: 'move', toNode: 'b' });
    const moved = { ...filled, primary: { replicaId: 'on b', opening: 'o' } };
    expect(nextCopyStep(moved, facts({}))).toEqual({ type: 'drop', replica: leaving('a') });
  });

  test('keeps what it has when people change their mind before', () => {
    const filling = volume([leaving('a'), newcomer('b')], ['a']);
    expect(nextCopyStep(filling, facts({}))).toMatchObject({ type: 'cancel', stays: leaving('a') });
  });
});

test('there is nothing to do for a volume whose nodes all stay, whatever it lacks', () => {
  const records = [
    volume([copy('a'), copy('b')], ['a', 'b']),
    volume([copy('a'), copy('b', { outSince: 3 })], ['a']),
    volume([copy('a'), newcomer('b'), newcomer('c')], ['a']),
  ];
  for (const record of records) expect(nextCopyStep(record, facts({}))).toBeUndefined();
});
