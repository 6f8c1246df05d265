// Opens this node's store, unless that would make the node forget its volumes: a store that is missing where
// there are devices or copies, another store, or an older one is refused, and nothing was touched.

import { join } from 'node:path';
import { keepNoted, missingStore, type NodeRecord, requireKnownStore } from '../../control/node-record.ts';
import type { Store } from '../../control/store.ts';
import { replicaNames } from '../../dataplane/pool-directory.ts';
import { DeviceRecords } from '../../host/device-records.ts';
import type { Logger } from '../../observe/log.ts';
import type { Config } from '../config-options.ts';
import { checkStoreOptions, openEtcdStore } from './open-etcd-store.ts';

export interface OpenedStore {
  readonly store: Store;
  close(): Promise<void>;
}

export async function openStore(
  config: Config,
  record: NodeRecord,
  { sync, log }: { sync: boolean; log: Logger },
): Promise<OpenedStore> {
  checkStoreOptions(config);
  const accept = config.acceptStore === 'any';
  if (accept)
    log.warn(
      'any store is accepted, also a new, another or an older one: start without --accept-store again',
    );
  const evidence = accept ? undefined : await evidenceOfStore(config, record);
  const seen = accept ? undefined : record.position;
  const store =
    config.store.kind === 'level'
      ? await openLevelStore(join(config.dataDir, 'store'), sync, evidence)
      : await openEtcdStore(config, config.store.endpoints, { seen, evidence });
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

/** Loaded only where it is used: a daemon of a cluster starts the sooner. */
async function openLevelStore(
  directory: string,
  sync: boolean,
  evidence: string | undefined,
): Promise<Store> {
  const { storeExists } = await import('../../control/level-files.ts');
  const { LevelStore } = await import('../../control/level-store.ts');
  if (evidence !== undefined && !(await storeExists(directory))) throw missingStore(directory, evidence);
  return await LevelStore.open(directory, { sync });
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
