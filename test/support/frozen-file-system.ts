// A disk that can stop answering and come back: an ext4 on a loop device, frozen and thawed. While it is frozen every
// change of it waits in the kernel, beyond every signal. Needs root for losetup, mount and fsfreeze.

import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';

export class FrozenFileSystem {
  readonly directory: string;
  readonly #image: string;
  readonly #device: string;

  /** Mounts it at `parent`/mount. */
  static async create(parent: string, sizeMib = 64): Promise<FrozenFileSystem> {
    const directory = join(parent, 'mount');
    const image = join(parent, 'image');
    await mkdir(directory);
    await execa('truncate', ['-s', `${sizeMib}M`, image]);
    const { stdout: device } = await execa('losetup', ['--find', '--show', image]);
    await execa('mkfs.ext4', ['-q', device]);
    await execa('mount', [device, directory]);
    return new FrozenFileSystem(directory, image, device);
  }

  private constructor(directory: string, image: string, device: string) {
    this.directory = directory;
    this.#image = image;
    this.#device = device;
  }

  async freeze(): Promise<void> {
    await execa('fsfreeze', ['--freeze', this.directory]);
  }

  /** Twice does no harm. */
  async thaw(): Promise<void> {
    await execa('fsfreeze', ['--unfreeze', this.directory], { reject: false });
  }

  async dispose(): Promise<void> {
    await this.thaw();
    await execa('umount', ['--lazy', this.directory], { reject: false });
    await execa('losetup', ['--detach', this.#device], { reject: false });
    await rm(this.#image, { force: true });
  }
}
