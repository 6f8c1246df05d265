// Every operation on volumes, failed and crashed at each of its calls of store and storage.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import type { VolumeRecord } from '../../src/control/records.ts';
import type { Volumes } from '../../src/control/volumes.ts';
import { MIB } from '../../src/core/units.ts';
import { FAULT_KINDS, type FaultKind, Faults } from '../support/faults.ts';
import { NODE, request, VolumeWorld } from '../support/volume-world.ts';

let directory: string;
let world: VolumeWorld;
let round: number;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-volumes-'));
  world = await VolumeWorld.open(join(directory, 'store'));
  round = 0;
});

afterEach(async () => {
  await world.store.close();
  await rm(directory, { recursive: true });
});

interface Operation {
  readonly name: string;
  /** Makes what the operation needs; `name` is fresh. */
  prepare(volumes: Volumes, name: string): Promise<string>;
  run(volumes: Volumes, name: string, volumeId: string): Promise<unknown>;
  /** The volume as it is before; undefined: there is none. */
  readonly before: Partial<VolumeRecord> | undefined;
  readonly after: Partial<VolumeRecord> | undefined;
}

const made = async (volumes: Volumes, name: string): Promise<string> =>
  (await volumes.create(request(name))).id;
const published = async (volumes: Volumes, name: string): Promise<string> => {
  const id = await made(volumes, name);
  await volumes.publish(id, NODE, false);
  return id;
};

const NOWHERE = { number: 0, node: null, readOnly: false, use: 'device' } as const;
const HERE = { number: 1, node: NODE, readOnly: false, use: 'device' } as const;
const UNMADE = { type: 'ext4', made: false } as const;
const OPERATIONS: readonly Operation[] = [
  {
    name: 'create',
    prepare: async () => '',
    run: async (volumes, name) => await volumes.create(request(name)),
    before: undefined,
    after: { sizeBytes: 64 * MIB, attachment: NOWHERE },
  },
  {
    name: 'delete',
    prepare: made,
    run: async (volumes, _, id) => await volumes.delete(id),
    before: { sizeBytes: 64 * MIB },
    after: undefined,
  },
  {
    name: 'resize',
    prepare: made,
    run: async (volumes, _, id) => await volumes.resize(id, 96 * MIB),
    before: { sizeBytes: 64 * MIB },
    after: { sizeBytes: 96 * MIB },
  },
  {
    name: 'publish',
    prepare: made,
    run: async (volumes, _, id) => await volumes.publish(id, NODE, false),
    before: { attachment: NOWHERE, epoch: 1 },
    after: { attachment: HERE, epoch: 2 },
  },
  {
    name: 'unpublish',
    prepare: published,
    run: async (volumes, _, id) => await volumes.unpublish(id, NODE),
    before: { attachment: HERE, epoch: 2 },
    after: { attachment: { number: 2, node: null, readOnly: false, use: 'device' }, epoch: 3 },
  },
  {
    name: 'file system made',
    prepare: made,
    run: async (volumes, _, id) => await volumes.fileSystemMade(id),
    before: { fileSystem: UNMADE },
    after: { fileSystem: { type: 'ext4', made: true } },
  },
];

/** What stands under `name`: all that the operation may change, nothing that differs from run to run. */
async function stateOf(name: string): Promise<VolumeRecord | undefined> {
  return (await world.expectSound()).find((record) => record.name === name);
}

function expectState(state: VolumeRecord | undefined, wanted: Partial<VolumeRecord> | undefined): void {
  if (wanted === undefined) expect(state).toBeUndefined();
  else expect(state).toMatchObject(wanted);
}

function isState(state: VolumeRecord | undefined, wanted: Partial<VolumeRecord> | undefined): boolean {
  try {
    expectState(state, wanted);
    return true;
  } catch {
    return false;
  }
}

/** Runs `operation` with the fault at its call `atCall`; false when it has fewer calls. */
async function strike(operation: Operation, kind: FaultKind, atCall: number): Promise<boolean> {
  const name = `${operation.name}-${kind}-${(round += 1)}`;
  const id = await operation.prepare(world.volumes, name);
  const faults = new Faults(kind, atCall);
  const outcome = await Promise.allSettled([operation.run(world.inject(faults), name, id)]);
  const place = `${kind} at call ${atCall} (${faults.struckAt ?? 'none'})`;
  if (faults.struckAt === undefined) {
    world.inject(new Faults());
    expect(outcome[0].status, place).toBe('fulfilled');
    expectState(await stateOf(name), operation.after);
    return false;
  }
  if (faults.isCrashed) {
    const report = await world.restart();
    expect({ problems: report.problems, orphans: report.orphans }, place).toEqual({
      problems: [],
      orphans: [],
    });
    const state = await stateOf(name);
    expect(
      isState(state, operation.before) || isState(state, operation.after),
      `${place}: ${JSON.stringify(state)}`,
    ).toBe(true);
  } else {
    world.inject(new Faults());
  }
  // What was done is done, what was not is done now.
  const idNow = operation.before === undefined ? '' : id;
  await operation.run(world.volumes, name, idNow);
  expectState(await stateOf(name), operation.after);
  await operation.run(world.volumes, name, idNow);
  expectState(await stateOf(name), operation.after);
  return true;
}

describe.each(OPERATIONS)('$name', (operation) => {
  test.each(FAULT_KINDS)(
    'is whole after %s at each of its calls, and repeating it finishes it',
    async (kind) => {
      const bystander = await world.volumes.create(request('bystander'));
      let atCall = 1;
      while (await strike(operation, kind, atCall)) atCall += 1;
      expect(atCall).toBeGreaterThan(2);
      expect(await world.volumes.get(bystander.id)).toEqual(bystander);
    },
  );
});

describe('open and tell', () => {
  test.each(FAULT_KINDS)('opening is whole after %s at each of its calls', async (kind) => {
    const { id } = await world.volumes.create(request('opened'));
    await world.volumes.publish(id, NODE, false);
    for (let atCall = 1; ; atCall += 1) {
      const faults = new Faults(kind, atCall);
      const outcome = await Promise.allSettled([world.inject(faults).acquire(id)]);
      if (faults.struckAt === undefined) {
        expect(outcome[0].status).toBe('fulfilled');
        expect(atCall).toBeGreaterThan(4);
        break;
      }
      if (!faults.isCrashed) {
        expect(world.storage.isFrontendOpen(id)).toBe(false);
        expect(world.storage.isReplicaOpen(id)).toBe(false);
      }
      await world.restart();
      const { attachment, sizeBytes } = await world.volumes.acquire(id);
      const frontend = { volumeId: id, attachmentNumber: attachment.number, sizeBytes };
      expect(world.storage.frontends.get(id)).toEqual(frontend);
      expect(world.storage.isReplicaOpen(id)).toBe(true);
      await world.volumes.release(id);
      await world.expectSound();
      world.disks.reboot();
    }
  });

  test.each(['failBefore', 'failAfter'] as const)(
    'a publication and a revocation that %s while the volume is open reach its sessions when repeated',
    async (kind) => {
      for (const isRevoked of [false, true]) {
        for (let atCall = 1; ; atCall += 1) {
          const faults = new Faults(kind, atCall);
          const { id } = await world.volumes.create(request(`open-${kind}-${isRevoked}-${atCall}`));
          await world.volumes.publish(id, NODE, false);
          // The same service before and after: it knows what it has told.
          const calls = new Faults();
          const volumes = world.inject(calls);
          await volumes.acquire(id);
          calls.rearm(faults);
          const change = async (): Promise<unknown> =>
            isRevoked ? await volumes.unpublish(id, null) : await volumes.renewAttachment(id, NODE);
          await Promise.allSettled([change()]);
          calls.rearm(new Faults());
          await change();
          const { attachment } = await volumes.get(id);
          expect(attachment.node).toBe(isRevoked ? null : NODE);
          expect(attachment.number).toBeGreaterThanOrEqual(2);
          const served = isRevoked ? undefined : attachment.number;
          expect(world.storage.frontends.get(id)?.attachmentNumber).toBe(served);
          await volumes.release(id);
          if (faults.struckAt === undefined) break;
        }
      }
    },
  );
});

test('a crash in the middle of the repair is repaired by the next start', async () => {
  for (let atCall = 1; ; atCall += 1) {
    // One volume half made, one half deleted, one half resized, and one name without a volume.
    const kept = await world.volumes.create(request('kept'));
    await crashAt('createReplica', async (volumes) => await volumes.create(request('half made')));
    const gone = await world.volumes.create(request('half deleted'));
    await crashAt('deleteReplica', async (volumes) => await volumes.delete(gone.id));
    await crashAt('resizeReplica', async (volumes) => await volumes.resize(kept.id, kept.sizeBytes + MIB));

    const faults = new Faults('crashAfter', atCall);
    await Promise.allSettled([world.inject(faults).repair()]);
    const report = await world.restart();
    expect({ problems: report.problems, orphans: report.orphans }).toEqual({ problems: [], orphans: [] });
    const records = await world.expectSound();
    expect(records.map((record) => [record.name, record.sizeBytes])).toEqual([
      ['kept', kept.sizeBytes + MIB],
    ]);
    await world.volumes.delete(kept.id);
    if (faults.struckAt === undefined) break;
  }
});

/** Crashes an operation at the first call of that name, and lets a new daemon stand there unrepaired. */
async function crashAt(call: string, run: (volumes: Volumes) => Promise<unknown>): Promise<void> {
  const faults = new Faults('crashBefore', 1, call);
  await expect(run(world.inject(faults))).rejects.toThrow(call);
  world.inject(new Faults());
}
