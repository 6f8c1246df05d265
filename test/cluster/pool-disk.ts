// A disk of its own for a pool, and what disks do: ext4 on a loop device over a sparse file. Needs root for mount, losetup
// and fsfreeze.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';

const DISK_MIB = 64;
/** What is left of a full disk: less than any daemon keeps in reserve. */
const LEFT_BYTES = 512 * 1024;
/** A write that comes while it is frozen waits for half of it: a hundred times what this machine's disk takes. */
const SLOW_CYCLE = 'fsfreeze -f "$0"; sleep 0.2; fsfreeze -u "$0"; sleep 0.01';

export class PoolDisk implements AsyncDisposable {
  readonly #directory: string;
  readonly #image: string;
  readonly #device: string;

  /** At `directory`, which is made. */
  static async mount(directory: string): Promise<PoolDisk> {
    const image = `${directory}.image`;
    await mkdir(directory, { recursive: true });
    await execa('truncate', ['-s', `${DISK_MIB}M`, image]);
    const { stdout: device } = await execa('losetup', ['--find', '--show', image]);
    await execa('mkfs.ext4', ['-q', device]);
    await execa('mount', [device, directory]);
    return new PoolDisk(directory, image, device);
  }

  private constructor(directory: string, image: string, device: string) {
    this.#directory = directory;
    this.#image = image;
    this.#device = device;
  }

  /** Other users of the file system take all of it. */
  async fill(): Promise<void> {
    const { bavail, bsize } = await statfs(this.#directory);
    const bytes = bavail * bsize - LEFT_BYTES;
    await execa('fallocate', ['-l', String(bytes), this.#ballast]);
  }

  async makeRoom(): Promise<void> {
    await rm(this.#ballast);
  }

  get #ballast(): string {
    return join(this.#directory, 'of-another-user');
  }

  /** Until it is ended. */
  slowDown(): { end(): Promise<void> } {
    const cycle = ['-c', `trap 'exit' TERM; while :; do ${SLOW_CYCLE}; done`, this.#directory];
    const child: ChildProcess = spawn('setpriv', ['--pdeathsig', 'TERM', 'sh', ...cycle], {
      stdio: 'ignore',
    });
    return {
      end: async () => {
        const gone = once(child, 'exit');
        child.kill('SIGTERM');
        await gone;
        await this.thaw();
      },
    };
  }

  /** Every change of it waits in the kernel. */
  async freeze(): Promise<void> {
    await execa('fsfreeze', ['--freeze', this.#directory]);
  }

  /** Twice does no harm. */
  async thaw(): Promise<void> {
    await execa('fsfreeze', ['--unfreeze', this.#directory], { reject: false });
  }

  /** From now on everything fails with EIO, for good. */
  async breakDown(): Promise<void> {
    await execa('truncate', ['-s', '4096', this.#image]);
    await execa('losetup', ['--set-capacity', this.#device]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.thaw();
    await execa('umount', ['--lazy', this.#directory], { reject: false });
    await execa('losetup', ['--detach', this.#device], { reject: false });
    await rm(this.#image, { force: true });
  }
}
