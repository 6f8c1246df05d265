// Opens this node's store, unless that would make the node forget its volumes: a store that is missing where
// there are devices or copies, another store, or an older one is refused, and nothing was touched.

import { join } from 'node:path';
import { storeExists } from '../../control/level-files.ts';
import { LevelStore } from '../../control/level-store.ts';
import { keepNoted, missingStore, type NodeRecord, requireKnownStore } from '../../control/node-record.ts';
import { replicaNames } from '../../dataplane/pool-directory.ts';
import { DeviceRecords } from '../../host/device-records.ts';
import type { Logger } from '../../observe/log.ts';
import type { Config } from '../config-options.ts';

export interface OpenedStore {
  readonly store: LevelStore;
  close(): Promise<void>;
}

export async function openStore(
  config: Config,
  record: NodeRecord,
  { sync, log }: { sync: boolean; log: Logger },
): Promise<OpenedStore> {
  const directory = join(config.dataDir, 'store');
  const accept = config.acceptStore === 'any';
  if (accept)
    log.warn(
      'any store is accepted, also a new, another or an older one: start without --accept-store again',
    );
  if (!accept && !(await storeExists(directory))) {
    const evidence = await evidenceOfStore(config, record);
    if (evidence !== undefined) throw missingStore(directory, evidence);
  }
  const store = await LevelStore.open(directory, { sync });
  try {
    await requireKnownStore(record, config.nodeName, store, accept);
  } catch (error) {
    await store.close();
    throw error;
  }
  const endNotes = keepNoted(record, config.nodeName, store, (reason) =>
    log.warn({ reason }, "the store's revision could not be noted in the data directory"),
  );
  return {
    store,
    close: async () => {
      await endNotes();
      await store.close();
    },
  };
}

/** What says that there was a store; undefined: this node is new. */
async function evidenceOfStore(config: Config, record: NodeRecord): Promise<string | undefined> {
  if (record.knowsStore) return 'this node has served with one before';
  const devices = await new DeviceRecords(join(config.dataDir, 'devices')).list();
  if (devices.size > 0) return `there are records of ${devices.size} devices`;
  for (const pool of config.pool) {
    // One that is not there, or cannot be read, shows nothing.
    const { length } = await replicaNames(pool.directory).catch(() => []);
    if (length > 0) return `pool "${pool.name}" holds ${length} copies of volumes`;
  }
  return undefined;
}
