// Random operations, failures and crashes against a model that knows nothing of stores, replicas or calls. An
// operation that was struck has happened or has not; which of the two is seen after the restart and then stays.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { VolumeRecord } from '../../src/control/records.ts';
import type { Volumes } from '../../src/control/volumes.ts';
import { isHoldfastError } from '../../src/core/errors.ts';
import { invariant } from '../../src/core/invariant.ts';
import { MIB } from '../../src/core/units.ts';
import { FAULT_KINDS, type FaultKind, Faults } from '../support/faults.ts';
import { NODE, request, VolumeWorld } from '../support/volume-world.ts';

const RUNS = 150;
const NAMES = ['a', 'b', 'c'] as const;
type Name = (typeof NAMES)[number];
const POOL_MIB = 10;
const MAX_PUBLISHED = 2;

interface ModelVolume {
  readonly sizeMib: number;
  readonly attachmentNumber: number;
  /** undefined: nowhere. */
  readonly access: 'read' | 'write' | undefined;
  readonly isFormatted: boolean;
}

interface Model {
  volumes: Map<Name, ModelVolume>;
  users: Map<Name, number>;
}

interface Real {
  readonly world: VolumeWorld;
  calls: Faults;
  /** Volumes keep their ids, and epochs never fall. */
  readonly seen: Map<Name, { id: string; epoch: number }>;
}

/** What an operation does to one volume: its new state (undefined: it is gone), or the code it is refused with. */
type Expected = { readonly next: ModelVolume | undefined } | { readonly code: string };

interface Operation {
  readonly title: string;
  expected(volume: ModelVolume | undefined, model: Model, name: Name): Expected;
  run(volumes: Volumes, id: string, name: Name): Promise<unknown>;
}

const NOT_FOUND = { code: 'NOT_FOUND' };

function promisedMib(model: Model, except: Name): number {
  return [...model.volumes].reduce((sum, [name, volume]) => sum + (name === except ? 0 : volume.sizeMib), 0);
}

function isInUse(volume: ModelVolume, model: Model, name: Name): boolean {
  return volume.access !== undefined || (model.users.get(name) ?? 0) > 0;
}

const create = (sizeMib: number): Operation => ({
  title: `create ${sizeMib} MiB`,
  expected: (volume, model, name) => {
    if (volume !== undefined)
      return volume.sizeMib === sizeMib ? { next: volume } : { code: 'ALREADY_EXISTS' };
    if (promisedMib(model, name) + sizeMib > POOL_MIB) return { code: 'NO_SPACE' };
    return { next: { sizeMib, attachmentNumber: 0, access: undefined, isFormatted: false } };
  },
  run: async (volumes, _, name) => await volumes.create(request(name, { sizeBytes: sizeMib * MIB })),
});

const remove: Operation = {
  title: 'delete',
  expected: (volume, model, name) =>
    volume !== undefined && isInUse(volume, model, name) ? { code: 'CONFLICT' } : { next: undefined },
  run: async (volumes, id) => await volumes.delete(id),
};

const resize = (sizeMib: number): Operation => ({
  title: `resize to ${sizeMib} MiB`,
  expected: (volume, model, name) => {
    if (volume === undefined) return NOT_FOUND;
    if (sizeMib < volume.sizeMib) return { code: 'OUT_OF_RANGE' };
    if (sizeMib > volume.sizeMib && promisedMib(model, name) + sizeMib > POOL_MIB)
      return { code: 'NO_SPACE' };
    return { next: { ...volume, sizeMib } };
  },
  run: async (volumes, id) => await volumes.resize(id, sizeMib * MIB),
});

const publish = (access: 'read' | 'write'): Operation => ({
  title: `publish to ${access}`,
  expected: (volume, model) => {
    if (volume === undefined) return NOT_FOUND;
    if (volume.access !== undefined)
      return volume.access === access ? { next: volume } : { code: 'ALREADY_EXISTS' };
    const publishedCount = [...model.volumes.values()].filter((other) => other.access !== undefined).length;
    if (publishedCount >= MAX_PUBLISHED) return { code: 'LIMIT' };
    return { next: { ...volume, access, attachmentNumber: volume.attachmentNumber + 1 } };
  },
  run: async (volumes, id) => await volumes.publish(id, NODE, access === 'read'),
});

const unpublish: Operation = {
  title: 'unpublish',
  expected: (volume) =>
    volume?.access === undefined
      ? { next: volume }
      : { next: { ...volume, access: undefined, attachmentNumber: volume.attachmentNumber + 1 } },
  run: async (volumes, id) => await volumes.unpublish(id, null),
};

const renew: Operation = {
  title: 'renew attachment',
  expected: (volume) => {
    if (volume === undefined) return NOT_FOUND;
    if (volume.access === undefined) return { code: 'CONFLICT' };
    return { next: { ...volume, attachmentNumber: volume.attachmentNumber + 1 } };
  },
  run: async (volumes, id) => await volumes.renewAttachment(id, NODE),
};

const format: Operation = {
  title: 'file system made',
  expected: (volume) => (volume === undefined ? NOT_FOUND : { next: { ...volume, isFormatted: true } }),
  run: async (volumes, id) => await volumes.fileSystemMade(id),
};

const acquire: Operation = {
  title: 'acquire',
  expected: (volume) => {
    if (volume === undefined) return NOT_FOUND;
    return volume.access === undefined ? { code: 'CONFLICT' } : { next: volume };
  },
  run: async (volumes, id) => await volumes.acquire(id),
};

interface Strike {
  readonly kind: FaultKind;
  readonly atCall: number;
}

class Command implements fc.AsyncCommand<Model, Real> {
  readonly operation: Operation;
  readonly name: Name;
  readonly strike: Strike | undefined;

  constructor(operation: Operation, name: Name, strike: Strike | undefined) {
    this.operation = operation;
    this.name = name;
    this.strike = strike;
  }

  check(): boolean {
    return true;
  }

  async run(model: Model, real: Real): Promise<void> {
    const { operation, name, strike } = this;
    const before = model.volumes.get(name);
    const expected = operation.expected(before, model, name);
    const id = real.seen.get(name)?.id ?? '0'.repeat(32);
    const faults = new Faults(strike?.kind, strike?.atCall);
    real.calls.rearm(faults);
    const [outcome] = await Promise.allSettled([operation.run(real.world.volumes, id, name)]);
    real.calls.rearm(new Faults());

    const next = 'next' in expected ? expected.next : before;
    if (faults.struckAt !== undefined) {
      await restart(model, real);
      const observed = (await observe(real)).get(name);
      expect([JSON.stringify(before), JSON.stringify(next)]).toContain(JSON.stringify(observed));
      setVolume(model, name, observed);
    } else {
      if ('code' in expected) {
        invariant(outcome.status === 'rejected', `${String(this)} is refused with ${expected.code}`);
        expect(isHoldfastError(outcome.reason) ? outcome.reason.code : outcome.reason).toBe(expected.code);
      } else {
        if (outcome.status === 'rejected') throw outcome.reason;
        if (operation === acquire) model.users.set(name, (model.users.get(name) ?? 0) + 1);
      }
      setVolume(model, name, next);
    }
    await expectModel(model, real);
  }

  toString(): string {
    const strike = this.strike === undefined ? '' : ` (${this.strike.kind} at call ${this.strike.atCall})`;
    return `${this.operation.title} ${this.name}${strike}`;
  }
}

class Release implements fc.AsyncCommand<Model, Real> {
  readonly name: Name;

  constructor(name: Name) {
    this.name = name;
  }

  check(model: Readonly<Model>): boolean {
    return (model.users.get(this.name) ?? 0) > 0;
  }

  async run(model: Model, real: Real): Promise<void> {
    await real.world.volumes.release(real.seen.get(this.name)?.id ?? '');
    model.users.set(this.name, (model.users.get(this.name) ?? 0) - 1);
    await expectModel(model, real);
  }

  toString(): string {
    return `release ${this.name}`;
  }
}

class Restart implements fc.AsyncCommand<Model, Real> {
  readonly isReboot: boolean;

  constructor(isReboot: boolean) {
    this.isReboot = isReboot;
  }

  check(): boolean {
    return true;
  }

  async run(model: Model, real: Real): Promise<void> {
    if (this.isReboot) real.world.disks.reboot();
    await restart(model, real);
    await expectModel(model, real);
  }

  toString(): string {
    return this.isReboot ? 'reboot' : 'restart';
  }
}

async function restart(model: Model, real: Real): Promise<void> {
  const report = await real.world.restart();
  expect({ problems: report.problems, orphans: report.orphans }).toEqual({ problems: [], orphans: [] });
  model.users.clear();
  real.calls = new Faults();
  real.world.inject(real.calls);
}

function setVolume(model: Model, name: Name, volume: ModelVolume | undefined): void {
  if (volume === undefined) model.volumes.delete(name);
  else model.volumes.set(name, volume);
}

function modelOf(record: VolumeRecord): ModelVolume {
  const { node, readOnly, number } = record.attachment;
  return {
    sizeMib: record.sizeBytes / MIB,
    attachmentNumber: number,
    access: node === null ? undefined : readOnly ? 'read' : 'write',
    isFormatted: record.fileSystem?.made ?? false,
  };
}

async function observe(real: Real): Promise<Map<Name, ModelVolume>> {
  const volumes = new Map<Name, ModelVolume>();
  const records = new Map((await real.world.expectSound()).map((record) => [record.name, record]));
  for (const name of NAMES) {
    const record = records.get(name);
    const seen = real.seen.get(name);
    if (record === undefined) {
      real.seen.delete(name);
      continue;
    }
    if (seen?.id === record.id) expect(record.epoch).toBeGreaterThanOrEqual(seen.epoch);
    real.seen.set(name, { id: record.id, epoch: record.epoch });
    volumes.set(name, modelOf(record));
  }
  return volumes;
}

async function expectModel(model: Model, real: Real): Promise<void> {
  const ids = new Map([...real.seen].map(([name, { id }]) => [name, id]));
  const observed = await observe(real);
  expect(Object.fromEntries(observed)).toEqual(Object.fromEntries(model.volumes));
  const { storage } = real.world;
  for (const [name, { id }] of real.seen) {
    if (ids.has(name)) expect(id).toBe(ids.get(name));
    const isUsed = (model.users.get(name) ?? 0) > 0;
    expect(storage.isReplicaOpen(id), `${name} is open while it has users`).toBe(isUsed);
    const volume = model.volumes.get(name);
    const served = isUsed && volume?.access !== undefined ? volume.attachmentNumber : undefined;
    expect(storage.frontends.get(id)?.attachmentNumber).toBe(served);
  }
}

const name = fc.constantFrom(...NAMES);
const strike = fc.option(
  fc.record({ kind: fc.constantFrom(...FAULT_KINDS), atCall: fc.integer({ min: 1, max: 12 }) }),
  {
    nil: undefined,
    freq: 1,
  },
);
const operation = fc.oneof(
  fc.integer({ min: 1, max: 5 }).map(create),
  fc.constantFrom(remove, unpublish, renew, format, acquire),
  fc.integer({ min: 1, max: 7 }).map(resize),
  fc.constantFrom('read' as const, 'write' as const).map(publish),
);
const commands = fc.commands<Model, Real, false>(
  [
    fc.tuple(operation, name, strike).map((parts) => new Command(...parts)),
    fc.tuple(operation, name).map(([kind, on]) => new Command(kind, on, undefined)),
    name.map((on) => new Release(on)),
    fc.boolean().map((isReboot) => new Restart(isReboot)),
  ],
  { maxCommands: 40 },
);

test('whatever is asked, failed and crashed, every volume is as the model says and nothing is half done', async () => {
  await fc.assert(
    fc.asyncProperty(commands, async (sequence) => {
      const directory = await mkdtemp(join(tmpdir(), 'holdfast-model-'));
      const world = await VolumeWorld.open(join(directory, 'store'), { maxVolumesPerNode: MAX_PUBLISHED });
      world.disks.pools.set('default', { totalBytes: POOL_MIB * MIB, overcommitRatio: 1 });
      const real: Real = { world, calls: new Faults(), seen: new Map() };
      world.inject(real.calls);
      try {
        await fc.asyncModelRun(
          () => ({ model: { volumes: new Map<Name, ModelVolume>(), users: new Map<Name, number>() }, real }),
          sequence,
        );
      } finally {
        await world.store.close();
        await rm(directory, { recursive: true });
      }
    }),
    { numRuns: RUNS },
  );
}, 60_000);
