// DeviceService over loop devices, for machines without nbd: real block devices that can be formatted,
// mounted, grown and pulled away. What the kernel's NBD driver adds is tested in guests.

import { rmSync, truncateSync } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { HoldfastError } from '../../src/core/errors.ts';
import type { AttachedDevice, DeviceService } from '../../src/host/device-service.ts';

export class LoopDevices implements DeviceService {
  readonly #directory: string;
  readonly #attached = new Map<string, AttachedDevice>();

  /** Files of volumes are kept in `directory` and outlive their devices, as the volumes' data does. */
  constructor(directory: string) {
    this.#directory = directory;
  }

  async attach(
    volumeId: string,
    attachmentNumber: number,
    sizeBytes: number,
    readOnly: boolean,
  ): Promise<AttachedDevice> {
    const standing = this.#attached.get(volumeId);
    if (standing?.attachmentNumber === attachmentNumber) return standing;
    if (standing !== undefined)
      throw new HoldfastError('CONFLICT', `${volumeId} has a device of another attachment`);
    const file = this.fileOf(volumeId);
    await (await open(file, 'a')).close();
    truncateSync(file, sizeBytes);
    const flags = ['--sector-size', '4096', ...(readOnly ? ['--read-only'] : [])];
    const { stdout: path } = await execa('losetup', ['--find', '--show', ...flags, file]);
    const index = Number(path.replace('/dev/loop', ''));
    const device = { volumeId, attachmentNumber, index, path, readOnly, sizeBytes };
    this.#attached.set(volumeId, device);
    return device;
  }

  async detach(volumeId: string, options?: { force?: boolean }): Promise<void> {
    const device = this.#attached.get(volumeId);
    if (device === undefined) return;
    const mounts = await readFile('/proc/self/mountinfo', 'utf8');
    if (options?.force !== true && mounts.includes(` ${device.path} `)) {
      throw new HoldfastError('CONFLICT', `${device.path} is mounted`);
    }
    await execa('losetup', ['--detach', device.path]);
    this.#attached.delete(volumeId);
  }

  /** The device goes away behind everybody's back, as after a reboot. It must not be mounted. */
  async lose(volumeId: string): Promise<void> {
    await this.detach(volumeId);
  }

  find(volumeId: string): AttachedDevice | undefined {
    return this.#attached.get(volumeId);
  }

  list(): AttachedDevice[] {
    return [...this.#attached.values()];
  }

  waitingSince(): Date | undefined {
    return undefined;
  }

  unjudged(): string[] {
    return [];
  }

  async resize(volumeId: string, sizeBytes: number): Promise<void> {
    const device = this.#attached.get(volumeId);
    if (device === undefined) throw new HoldfastError('NOT_FOUND', `${volumeId} is not attached`);
    truncateSync(this.fileOf(volumeId), sizeBytes);
    await execa('losetup', ['--set-capacity', device.path]);
    this.#attached.set(volumeId, { ...device, sizeBytes });
  }

  async recover(): Promise<void> {}

  async release(): Promise<void> {}

  fileOf(volumeId: string): string {
    return join(this.#directory, volumeId);
  }

  /** Whatever a test left attached. */
  async removeAll(): Promise<void> {
    for (const { volumeId, path } of this.list()) {
      await execa('losetup', ['--detach', path], { reject: false });
      this.#attached.delete(volumeId);
      rmSync(this.fileOf(volumeId), { force: true });
    }
  }
}
