import { execFile } from 'node:child_process';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { attach } from '../../src/replication/config.ts';
import { configOf, withConfig } from '../../src/control/volume-config.ts';
import type { VolumeRecord } from '../../src/control/records.ts';
import { HistoryClient, VolumeHistory } from '../support/history-client.ts';
import { DataPlanes } from './cluster-support.ts';

const SECTORS = 2048;

/** What is read of the file at once is in the page cache in parts only: a read that does not wait is short. */
async function forgetMost(path: string): Promise<void> {
  await promisify(execFile)('dd', [`if=${path}`, 'of=/dev/null', 'iflag=nocache', 'count=0', 'status=none']);
  const file = await open(path);
  try {
    const block = Buffer.alloc(4096);
    for (let offset = 0; offset < SECTORS * 4096; offset += 256 * 1024)
      await file.read(block, 0, 4096, offset);
  } finally {
    await file.close();
  }
}

describe.each(['direct', 'buffered'] as const)('replicas of a volume in %s pools', (ioMode) => {
  let directory: string;
  let planes: DataPlanes;

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'holdfast-cluster-'));
    planes = await DataPlanes.start(directory, 4, ioMode);
  });

  afterEach(async () => {
    await planes[Symbol.asyncDispose]();
    await rm(directory, { recursive: true, force: true });
  });

  async function client(record: VolumeRecord, user: number, history = new VolumeHistory(), part = 0) {
    const socketPath = await planes.export(record, user, part);
    return { history, client: await HistoryClient.connect(history, { socketPath, exportName: record.name }) };
  }

  test('every acknowledged write is on every copy', async () => {
    const record = await planes.createVolume([0, 1, 2], 0);
    const { history, client: user } = await client(record, 0);
    const load = user.load({ depth: 16, sectors: SECTORS });
    await sleep(2000);
    const report = await load.stop();
    expect(report.errors).toEqual(new Map());
    expect(report.requests).toBeGreaterThan(20);
    await user.readAll(SECTORS);
    expect(history.complaints).toEqual([]);
    await user.disconnect();
    // On a busy machine a copy may have been away for a moment.
    await planes.untilInSync(record.id, [0, 1, 2]);
    const [first, ...others] = await planes.contents(record.id, [0, 1, 2]);
    for (const other of others) expect(first?.equals(other)).toBe(true);
  });

  test('a node without a copy uses the volume', async () => {
    const record = await planes.createVolume([0, 1], 3);
    const { history, client: user } = await client(record, 3);
    const load = user.load({ depth: 16, sectors: SECTORS });
    await sleep(1500);
    expect((await load.stop()).errors).toEqual(new Map());
    await user.readAll(SECTORS);
    expect(history.complaints).toEqual([]);
    await user.disconnect();
  });

  test('the place of the primary goes to another copy under load, and nobody sees more than a pause', async () => {
    const record = await planes.createVolume([0, 1, 2], 0);
    const { history, client: user } = await client(record, 0);
    const load = user.load({ depth: 16, sectors: SECTORS });
    for (const [from, to] of [
      [0, 1],
      [1, 2],
      [2, 0],
    ] as const) {
      await sleep(500);
      const { cluster } = planes.node(from).storage;
      await planes.until(`from ${from} to ${to}`, () => cluster.handOver(record.id, planes.replicaId(to)));
      await planes.until(`${to} is the primary`, async () => {
        return (await planes.records.ready(record.id)).primary.replicaId === planes.replicaId(to);
      });
    }
    await sleep(500);
    const report = await load.stop();
    expect(report.errors).toEqual(new Map());
    expect(report.longestPause.ms).toBeLessThan(3000);
    await user.readAll(SECTORS);
    expect(history.complaints).toEqual([]);
    await user.disconnect();
  });

  test('a secondary that was away catches up, and is equal to the others again', async () => {
    const record = await planes.createVolume([0, 1, 2], 0);
    const { history, client: user } = await client(record, 0);
    const load = user.load({ depth: 16, sectors: SECTORS });
    await sleep(500);
    const { cluster } = planes.node(1).storage;
    await cluster.closeReplica(record.id);
    await planes.untilInSync(record.id, [0, 2]);
    await sleep(500);
    await cluster.openReplica(record.id);
    await planes.untilInSync(record.id, [0, 1, 2]);
    expect((await load.stop()).errors).toEqual(new Map());
    // What was copied is still told when the copying is over; the one that never was away got nothing.
    const sent = new Map(
      (await planes.node(0).storage.cluster.replicaView(record.id))?.others.map((other) => [
        other.replicaId,
        other.resyncBytesSent,
      ]),
    );
    expect(sent.get(planes.replicaId(1))).toBeGreaterThan(0);
    expect(sent.get(planes.replicaId(2))).toBe(0);
    await user.readAll(SECTORS);
    expect(history.complaints).toEqual([]);
    await user.disconnect();
    // On a busy machine a copy may have been away for a moment.
    await planes.untilInSync(record.id, [0, 1, 2]);
    const [first, ...others] = await planes.contents(record.id, [0, 1, 2]);
    for (const other of others) expect(first?.equals(other)).toBe(true);
  });

  test('a primary that goes away is replaced, comes back and is filled', async () => {
    const record = await planes.createVolume([0, 1, 2], 3);
    const { history, client: user } = await client(record, 3);
    const load = user.load({ depth: 16, sectors: SECTORS });
    await sleep(500);
    const { cluster } = planes.node(0).storage;
    await cluster.closeReplica(record.id);
    await planes.until('another primary', async () => {
      return (await planes.records.ready(record.id)).primary.replicaId !== planes.replicaId(0);
    });
    await sleep(500);
    await cluster.openReplica(record.id);
    await planes.untilInSync(record.id, [0, 1, 2]);
    const report = await load.stop();
    expect(report.errors).toEqual(new Map());
    expect(report.longestPause.ms).toBeLessThan(10_000);
    await user.readAll(SECTORS);
    expect(history.complaints).toEqual([]);
    await user.disconnect();
    // On a busy machine a copy may have been away for a moment.
    await planes.untilInSync(record.id, [0, 1, 2]);
    const [first, ...others] = await planes.contents(record.id, [0, 1, 2]);
    for (const other of others) expect(first?.equals(other)).toBe(true);
  });

  test('a replica that is new gets everything', async () => {
    const record = await planes.createVolume([0], 0, { failureMode: 'alwayson' });
    const { history, client: user } = await client(record, 0);
    const load = user.load({ depth: 8, sectors: SECTORS });
    await sleep(500);
    const added = await planes.records.updateReady(record.id, (current) => ({
      ...current,
      replicas: [
        ...current.replicas,
        {
          id: planes.replicaId(1),
          node: 'n1',
          pool: 'p',
          outSince: null,
          needsFullCopy: true,
          bootId: null,
          report: null,
        },
      ],
    }));
    await planes.makeCopy(added, 1);
    expect((await load.stop()).errors).toEqual(new Map());
    await user.flush();
    await forgetMost(planes.node(0).dataFile(record.id));
    await planes.node(1).storage.cluster.openReplica(record.id);
    planes.changed(record.id);
    await planes.untilInSync(record.id, [0, 1]);
    await user.readAll(SECTORS);
    expect(history.complaints).toEqual([]);
    await user.disconnect();
    const [first, second] = await planes.contents(record.id, [0, 1]);
    expect(second !== undefined && first?.equals(second)).toBe(true);
  });

  test('a frontend that is there before the copy meets it, whichever pool and thread has it', async () => {
    const other = await planes.createClosed([0], 0, {
      replicas: [
        {
          id: planes.replicaId(0),
          node: 'n0',
          pool: 'q',
          outSince: null,
          needsFullCopy: false,
          bootId: null,
          report: null,
        },
      ],
    });
    const first = await planes.createClosed([0], 0);
    for (const record of [first, other]) {
      const { history, client: user } = await client(record, 0);
      const load = user.load({ depth: 4, sectors: SECTORS });
      await planes.node(0).storage.cluster.openReplica(record.id);
      await sleep(500);
      const report = await load.stop();
      expect(report.errors).toEqual(new Map());
      expect(report.requests).toBeGreaterThan(5);
      expect(history.complaints).toEqual([]);
      await user.disconnect();
    }
  });

  test('more requests than there are slots are answered, beside those of other volumes', async () => {
    const records = await Promise.all([0, 1, 2].map(() => planes.createVolume([0, 1], 0)));
    const users = await Promise.all(
      records.flatMap((record) => {
        const history = new VolumeHistory();
        return [0, 1].map((part) => client(record, 0, history, part));
      }),
    );
    const loads = users.map(({ client: user }) => user.load({ depth: 400, sectors: SECTORS }));
    await sleep(1500);
    for (const load of loads) expect((await load.stop()).errors).toEqual(new Map());
    for (const { history } of users) expect(history.complaints).toEqual([]);
    for (const { client: user } of users) await user.disconnect();
  });

  test('a volume that waits for its copies holds up neither the end of its use nor a stop', async () => {
    const record = await planes.createVolume([0, 1], 0, { failureMode: 'hard' });
    const { client: user } = await client(record, 0);
    const load = user.load({
      depth: 8,
      sectors: SECTORS,
      mix: { read: 0, write: 1, fua: 0, flush: 0, zeroes: 0 },
    });
    await sleep(300);
    const before = performance.now();
    await planes.node(1).storage.cluster.closeReplica(record.id);
    await sleep(1000);
    await planes.node(0).storage.cluster.closeFrontend(record.id);
    await planes.node(0).storage.close();
    expect(performance.now() - before).toBeLessThan(15_000);
    await load.stop();
  });

  test('who is attached elsewhere gets errors, and the next user sees all that was acknowledged', async () => {
    const record = await planes.createVolume([0, 1], 0);
    const { history, client: user } = await client(record, 0);
    const load = user.load({ depth: 8, sectors: SECTORS });
    await sleep(500);
    const moved = await planes.records.updateReady(record.id, (current) =>
      withConfig(current, attach(configOf(current), 'n2')),
    );
    planes.changed(record.id);
    const next = await client(moved, 2, history);
    await next.client.readAll(SECTORS);
    const report = await load.stop();
    expect(report.errors.size).toBe(1);
    expect(history.complaints).toEqual([]);
    await next.client.disconnect();
    user.abandon();
  });
});
