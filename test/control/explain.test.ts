// Each unhealthy state of a volume, and the one exact reason and next step that a person is told.

import { describe, expect, test } from 'vitest';
import type { PrimaryState } from '../../src/control/change-copies.ts';
import { type CopyLooks, type FoundCopy, problemsOfCopy } from '../../src/control/explain-copy.ts';
import { problemsOfService } from '../../src/control/explain-service.ts';
import type { NodeView } from '../../src/control/nodes.ts';
import { type ReplicaRecord, UNDECIDED, type VolumeRecord } from '../../src/control/records.ts';
import { HoldfastError } from '../../src/core/errors.ts';
import { recordOn } from '../support/volume-record.ts';

const SINCE = '2026-11-23T05:00:00.000Z';

function node(name: string, changes: Partial<NodeView> = {}): NodeView {
  return {
    version: 1,
    name,
    id: '0'.repeat(32),
    address: 'h:1',
    zone: null,
    labels: {},
    pools: [],
    softwareVersion: '1',
    wire: { control: { min: 1, max: 1 }, peer: { min: 1, max: 1 } },
    bootId: 'boot',
    process: '0'.repeat(32),
    startedAt: SINCE,
    lostAt: null,
    cordoned: false,
    draining: false,
    isAlive: true,
    ...changes,
  };
}
const gone = (name: string): NodeView => node(name, { isAlive: false, lostAt: SINCE });

const SOUND: FoundCopy = {
  pool: 'pool',
  replicaId: 'r2',
  lineage: 'l',
  sizeBytes: 1,
  promisedEpoch: 7,
  allocatedBytes: 1,
  isOpen: true,
  problem: null,
};

type Other = PrimaryState['others'][number];
const FOLLOWS: Other = {
  replicaId: 'r2',
  isConnected: true,
  resyncBytesLeft: null,
  resyncBytesSent: 0,
  isWaitingForTurn: false,
  departureCount: 0,
  heldOutMs: 0,
};
function primaryWith(...others: Partial<Other>[]): PrimaryState {
  return {
    epoch: 7,
    isActive: true,
    mayReply: true,
    others: others.map((other) => ({ ...FOLLOWS, ...other })),
  };
}

/** On a and b; b is out of sync since epoch 5. */
function degraded(changes: Partial<VolumeRecord> = {}): VolumeRecord {
  const record = recordOn(['a', 'b'], changes);
  return {
    ...record,
    inSync: record.inSync.slice(0, 1),
    replicas: record.replicas.map((one) => (one.id === 'r2' ? { ...one, outSince: 5 } : one)),
  };
}

/** What is told of the copy on b. */
function told(record: VolumeRecord, looks: Partial<CopyLooks>): { problem: string; nextStep: string }[] {
  const replica = record.replicas[1] as ReplicaRecord;
  const usual = { here: 'a', hereNode: node('a'), node: node('b'), answer: SOUND, primary: primaryWith({}) };
  return problemsOfCopy(record, replica, { ...usual, ...looks });
}

describe('of a copy', () => {
  test('that is in sync, open and connected there is nothing to tell', () => {
    expect(told(recordOn(['a', 'b']), {})).toEqual([]);
  });

  test.each<[string, VolumeRecord, Partial<CopyLooks>, RegExp, RegExp]>([
    [
      'whose node is not alive',
      degraded(),
      { node: gone('b'), answer: new HoldfastError('UNAVAILABLE', 'refused') },
      /^Its copy on node "b" is not in sync since epoch 5, and node "b" is not alive, since 2026-11-23T05/,
      /Start the node, or its daemon.*holdfast node drain b/,
    ],
    [
      'whose node is not alive, and that nobody has missed yet',
      recordOn(['a', 'b']),
      { node: node('b', { isAlive: false }) },
      /counts as in sync, and node "b" is not alive\.$/,
      /Start the node/,
    ],
    [
      'whose node the cluster does not know',
      degraded(),
      { node: undefined },
      /node "b" is not known to the cluster/,
      /holdfast node drain b/,
    ],
    [
      'whose node lives and cannot be asked',
      recordOn(['a', 'b']),
      { answer: new HoldfastError('UNAVAILABLE', 'no route to h:1') },
      /node "b" is alive, but node "a" cannot ask it: no route to h:1/,
      /network, firewall, its --advertise.*holdfast node show b/,
    ],
    [
      'whose node lives and speaks nothing that this one speaks',
      recordOn(['a', 'b']),
      {
        node: node('b', { wire: { control: { min: 1, max: 2 }, peer: { min: 2, max: 3 } } }),
        answer: new HoldfastError('UNAVAILABLE', 'closed'),
      },
      /node "b" is alive, but node "a" cannot talk with it: it speaks versions 2 to 3 of the wire format and this daemon 1 to 1/,
      /^Upgrade the daemon that is too old/,
    ],
    [
      'whose pool is not open',
      degraded(),
      { answer: null, node: node('b', { pools: [closedPool('its directory is empty')] }) },
      /pool "pool" of node "b", which is not open: its directory is empty/,
      /opened by itself/,
    ],
    ['that is not there', degraded(), { answer: null }, /not seen in pool "pool" of node "b"/, /disk back/],
    [
      'whose disk failed',
      degraded(),
      { answer: { ...SOUND, isOpen: false, problem: 'a flush failed (errno 5)' } },
      /pool "pool" of node "b": a flush failed \(errno 5\)/,
      /remove the file 'failed'/,
    ],
    [
      'that is another one',
      degraded(),
      { answer: { ...SOUND, replicaId: 'r9' } },
      /not the one that the store names/,
      /Put back/,
    ],
    [
      'that is ahead of the store',
      degraded(),
      { answer: { ...SOUND, promisedEpoch: 12 } },
      /promised epoch 12, but the store knows only 7/,
      /newer store/,
    ],
    [
      'that is not open',
      degraded(),
      { answer: { ...SOUND, isOpen: false } },
      /is not open/,
      /log of the daemon/,
    ],
    [
      'that the primary does not reach',
      degraded(),
      { primary: primaryWith({ isConnected: false }) },
      /since epoch 5, and the primary on node "a" does not reach it, although both nodes are alive/,
      /way from node "a" to node "b"/,
    ],
    [
      'that is in sync and that the primary does not reach',
      recordOn(['a', 'b']),
      { primary: primaryWith({ isConnected: false }) },
      /counts as in sync, and the primary on node "a" does not reach it/,
      /way from node "a" to node "b"/,
    ],
    [
      'that is held out',
      degraded(),
      { primary: primaryWith({ isConnected: false, heldOutMs: 42_100, departureCount: 5 }) },
      /held out for another 43 s, since it left the in-sync set 5 times in a row/,
      /holdfast volume readmit [0-9a-f]{32} b/,
    ],
    [
      'that waits for its turn',
      degraded(),
      { primary: primaryWith({ isWaitingForTurn: true }) },
      /waits for its turn, node "a" brings as many other copies/,
      /Nothing/,
    ],
    [
      'that is being filled',
      degraded(),
      { primary: primaryWith({ resyncBytesLeft: 8 * 2 ** 20 }) },
      /since epoch 5: it is being filled, 8.* MiB are left/,
      /Nothing/,
    ],
    ['that is about to be taken up', degraded(), {}, /about to be taken up/, /Nothing/],
  ])('%s the reason and the next step are told', (_, record, looks, problem, nextStep) => {
    expect(told(record, looks)).toEqual([
      { problem: expect.stringMatching(problem), nextStep: expect.stringMatching(nextStep) },
    ]);
  });

  test('of a volume of one copy that nobody uses it is nothing that it is not open', () => {
    const record = recordOn(['b']);
    const own = record.replicas[0] as ReplicaRecord;
    const answer = { ...SOUND, replicaId: 'r1', isOpen: false };
    const looks = { here: 'a', hereNode: node('a'), node: node('b'), answer, primary: undefined };
    expect(problemsOfCopy(record, own, looks)).toEqual([]);
    const used = { ...record, attachment: { ...record.attachment, node: 'b' } };
    expect(problemsOfCopy(used, own, looks)).toHaveLength(1);
  });
});

function closedPool(problem: string): NodeView['pools'][number] {
  return { name: 'pool', totalBytes: 0, availableBytes: 0, reserveBytes: 0, overcommitRatio: 1, problem };
}

describe('of the volume', () => {
  const looks = (nodes: readonly NodeView[], primary: PrimaryState | undefined) => ({
    nodes: new Map(nodes.map((one) => [one.name, one])),
    primary,
  });
  const alive = [node('a'), node('b')];

  test('that is served there is nothing to tell', () => {
    expect(problemsOfService(recordOn(['a', 'b']), looks(alive, primaryWith({})))).toEqual([]);
    expect(problemsOfService(degraded(), looks(alive, primaryWith({})))).toEqual([]);
    // Nobody uses it.
    expect(problemsOfService(recordOn(['a']), looks(alive, undefined))).toEqual([]);
  });

  test.each<[string, VolumeRecord, readonly NodeView[], PrimaryState | undefined, RegExp, RegExp]>([
    [
      'that has fewer copies than its failure mode wants',
      degraded({ failureMode: 'hard' }),
      alive,
      primaryWith({}),
      /1 of 2 copies are in sync .* failure mode \(hard\) wants 2: requests wait/,
      /Bring back node "b".*set-failure-mode [0-9a-f]{32} alwayson/,
    ],
    [
      'whose copy in sync is not reached and cannot be done without',
      recordOn(['a', 'b', 'c'], { failureMode: 2 }),
      alive,
      primaryWith({}, { replicaId: 'r3', isConnected: false }),
      /2 of 3 copies are in sync and to be reached.*wants 3/,
      /Bring back node "c".*set-failure-mode [0-9a-f]{32} 1/,
    ],
    [
      'whose primary died, and that another copy takes over',
      recordOn(['a', 'b']),
      [gone('a'), node('b')],
      undefined,
      /its primary's node "a" is not alive, since .*a copy in sync is about to take over \(node "b"\)/,
      /volume timeline/,
    ],
    [
      'of which every copy in sync is lost',
      degraded(),
      [gone('a'), node('b')],
      undefined,
      /Nobody can serve it: every copy that holds all its writes is on a node that is not alive \("a"\)/,
      /Bring back node "a".*volume promote [0-9a-f]{32} b --lose-writes/,
    ],
    [
      'whose primary lives and does not serve',
      recordOn(['a', 'b']),
      alive,
      undefined,
      /Its primary on node "a" does not answer for it: requests wait/,
      /log of the daemon on node "a"/,
    ],
    [
      'whose copies nobody can tell apart',
      recordOn(['a', 'b'], { inSync: [{ replicaId: 'r1', incarnation: UNDECIDED }] }),
      alive,
      undefined,
      /rebuilt from the disks/,
      /rebuild-catalog.*--lose-writes/,
    ],
    [
      'that is attached to a node that is away',
      recordOn(['a', 'b'], { attachment: { number: 4, node: 'u', readOnly: false, use: 'device' } }),
      [...alive, gone('u')],
      primaryWith({}),
      /attached on a node that is away \(attachment 4\): node "u" is not alive, since/,
      /volume detach [0-9a-f]{32} --force/,
    ],
  ])('%s the reason and the next step are told', (_, record, nodes, primary, problem, nextStep) => {
    expect(problemsOfService(record, looks(nodes, primary))).toEqual([
      { problem: expect.stringMatching(problem), nextStep: expect.stringMatching(nextStep) },
    ]);
  });
});
