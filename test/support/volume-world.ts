// A machine with volumes: its disks and its store live on, its daemon is started anew after every crash.

import { expect } from 'vitest';
import { LevelStore } from '../../src/control/level-store.ts';
import type { Problem } from '../../src/control/problems.ts';
import type { VolumeRecord } from '../../src/control/records.ts';
import type { RepairReport } from '../../src/control/repair.ts';
import type { CreateVolume } from '../../src/control/volume-service.ts';
import { Volumes, type VolumesOptions } from '../../src/control/volumes.ts';
import { MIB } from '../../src/core/units.ts';
import { Faults } from './faults.ts';
import { MemoryDisks, MemoryStorage } from './memory-storage.ts';

export const NODE = 'node-1';

export function request(name: string, changes: Partial<CreateVolume> = {}): CreateVolume {
  return {
    name,
    sizeBytes: 64 * MIB,
    replicaCount: 0,
    durability: 'writeback',
    failureMode: 'soft',
    fileSystemType: 'ext4',
    labels: {},
    ...changes,
  };
}

export class VolumeWorld {
  readonly disks = new MemoryDisks();
  readonly store: LevelStore;
  readonly #options: Omit<VolumesOptions, 'replication'>;
  storage: MemoryStorage;
  volumes: Volumes;

  /** The store is real but not synced: what it promises to a power cut is tested elsewhere. */
  static async open(directory: string, options: Partial<VolumesOptions> = {}): Promise<VolumeWorld> {
    return new VolumeWorld(await LevelStore.open(directory, { sync: false }), options);
  }

  private constructor(store: LevelStore, options: Partial<VolumesOptions>) {
    this.store = store;
    this.#options = { node: NODE, maxVolumesPerNode: 100, ...options };
    this.storage = new MemoryStorage(this.disks);
    this.volumes = this.#volumesWith(new Faults());
  }

  /** The same daemon, whose calls from now on go through `faults`. */
  inject(faults: Faults): Volumes {
    this.volumes = this.#volumesWith(faults);
    return this.volumes;
  }

  /** The daemon is gone; the next one starts and repairs. */
  async restart(): Promise<RepairReport> {
    this.storage = new MemoryStorage(this.disks);
    this.volumes = this.#volumesWith(new Faults());
    return await this.volumes.repair();
  }

  #volumesWith(faults: Faults): Volumes {
    return new Volumes(
      faults.around(this.store, ['get', 'list', 'compareAndSwap']),
      faults.around(this.storage, [
        'pools',
        'createReplica',
        'deleteReplica',
        'replicas',
        'replica',
        'resizeReplica',
        'updateSuperblock',
      ]),
      {
        ...this.#options,
        replication: faults.around(this.storage, [
          'openReplica',
          'closeReplica',
          'openFrontend',
          'closeFrontend',
        ]),
      },
    );
  }

  async explain(volumeId: string): Promise<Problem[]> {
    return await this.volumes.explain(volumeId);
  }

  /** Nothing is half done, nothing is lost, nothing is left over. Returns all volumes. */
  async expectSound(): Promise<VolumeRecord[]> {
    const stored = (await this.store.list('volumes/')).map(
      (entry) => JSON.parse(entry.value) as VolumeRecord,
    );
    const claims = (await this.store.list('volume-names/')).map(
      (entry) => JSON.parse(entry.value) as { id: string; name: string },
    );
    const pairs = (items: { id: string; name: string }[]): string[] =>
      items.map(({ id, name }) => `${id} ${name}`).sort();
    expect(pairs(claims), 'every volume has its name, and every name its volume').toEqual(pairs(stored));
    expect(
      [...this.disks.replicas.keys()].sort(),
      'every volume has its copy, and every copy its volume',
    ).toEqual(stored.map((record) => record.id));
    for (const record of stored) {
      expect(record).toMatchObject({ state: 'ready', targetSizeBytes: record.sizeBytes });
      const superblock = this.disks.replicas.get(record.id)?.superblock;
      expect(superblock?.sizeBytes).toBe(record.sizeBytes);
      expect(superblock?.promisedEpoch).toBeLessThanOrEqual(record.epoch);
      expect(await this.volumes.explain(record.id)).toEqual([]);
    }
    return stored;
  }
}
