// Which volumes this daemon has devices for, on disk: an empty file a volume, made before the device is and
// removed after it. After a crash they tell our own devices from those of another daemon on this machine:
// without a record and without a current attachment a device is left alone.

import { mkdir, open, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { syncDirectory } from '../dataplane/durable-files.ts';

export class DeviceRecords {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** Durable when it resolves. */
  async add(volumeId: string): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    const file = await open(join(this.#directory, volumeId), 'a', 0o600);
    await file.close();
    await syncDirectory(this.#directory);
  }

  /** Gone already is success. One that comes back after a power cut does no harm: its device does not. */
  async remove(volumeId: string): Promise<void> {
    await rm(join(this.#directory, volumeId), { force: true });
  }

  async list(): Promise<Set<string>> {
    await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    return new Set(await readdir(this.#directory));
  }
}
