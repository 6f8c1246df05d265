// What people have said about the whole cluster, under one key of the store.

import { z } from 'zod';
import { errorText, HoldfastError } from '../core/errors.ts';
import type { Store } from './store.ts';

const KEY = 'cluster/settings';
const MAX_ATTEMPTS = 20;

/** Loose: during an upgrade older daemons change what newer ones wrote, and must keep what they do not know. */
const settingsSchema = z.looseObject({
  version: z.literal(1),
  /** Since when nothing is taken for lost; null: it is. */
  maintenanceSince: z.iso.datetime().nullable(),
});
export type ClusterSettings = z.infer<typeof settingsSchema>;

export async function readSettings(store: Store): Promise<ClusterSettings> {
  return (await read(store)).settings;
}

/** On already, or off: nothing. */
export async function setMaintenance(store: Store, isOn: boolean): Promise<ClusterSettings> {
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt += 1) {
    const { settings, revision } = await read(store);
    if ((settings.maintenanceSince !== null) === isOn) return settings;
    const changed = { ...settings, maintenanceSince: isOn ? new Date().toISOString() : null };
    const text = JSON.stringify(settingsSchema.parse(changed));
    if ((await store.compareAndSwap(KEY, revision, text)).swapped) return changed;
  }
  throw new HoldfastError('BUSY', "The cluster's settings are changed all the time: try again.");
}

async function read(store: Store): Promise<{ settings: ClusterSettings; revision: number }> {
  const entry = await store.get(KEY);
  if (entry === undefined) return { settings: { version: 1, maintenanceSince: null }, revision: 0 };
  try {
    return { settings: settingsSchema.parse(JSON.parse(entry.value)), revision: entry.revision };
  } catch (error) {
    throw new HoldfastError(
      'CORRUPT',
      `The store's entry ${KEY} cannot be understood (${errorText(error)}): another version of Holdfast wrote it, or it ` +
        'is damaged. Start the version that wrote it.',
      { cause: error },
    );
  }
}
