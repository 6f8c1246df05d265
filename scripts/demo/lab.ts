// Where the demo runs: on this host when its kernel has nbd, else in a lab guest with a kernel of its own.
// Either way there is an ext4 file system of the demo's own for the pool.

import { execFileSync } from 'node:child_process';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GIB } from '../../src/core/units.ts';
import { Guest } from '../../test/lab/guest.ts';
import { HostMachine } from '../../test/lab/host-machine.ts';
import { type Machine, mustRun } from '../../test/lab/machine.ts';

const LIMIT_MS = 20 * 60_000;
const POOL_DISK_BYTES = 8 * GIB;

export interface DemoLab extends AsyncDisposable {
  readonly machine: Machine;
  readonly isGuest: boolean;
  /** A directory on the machine for the pool, the store, sockets and mount points. */
  readonly dir: string;
}

export async function openDemoLab(): Promise<DemoLab> {
  if (hostHasNbd()) return await hostLab();
  console.log(
    'The kernel of this host offers no nbd (or this is not root): booting a lab guest, which has it.',
  );
  return await guestLab();
}

function hostHasNbd(): boolean {
  if (process.getuid?.() !== 0) return false;
  if (existsSync('/sys/module/nbd')) return true;
  try {
    execFileSync('modprobe', ['nbd', 'max_part=0'], { stdio: 'ignore' });
    return existsSync('/sys/module/nbd');
  } catch {
    return false; // no such module, or not allowed to load it
  }
}

async function hostLab(): Promise<DemoLab> {
  const machine = await HostMachine.create();
  const dir = await mkdtemp('/var/tmp/holdfast-demo-');
  return {
    machine,
    isGuest: false,
    dir,
    async [Symbol.asyncDispose]() {
      await machine.run(`findmnt -rno TARGET | grep ^${dir}/ | tac | xargs -r umount -l`);
      await machine[Symbol.asyncDispose]();
      await rm(dir, { recursive: true, force: true });
    },
  };
}

async function guestLab(): Promise<DemoLab> {
  const diskDir = await mkdtemp(join(tmpdir(), 'holdfast-demo-'));
  try {
    const diskPath = join(diskDir, 'disk');
    const disk = await open(diskPath, 'w');
    await disk.truncate(POOL_DISK_BYTES);
    await disk.close();
    const guest = await Guest.start({
      name: 'demo',
      memoryMib: 1024,
      disks: [diskPath],
      modules: ['nbd max_part=0'],
      timeoutMs: LIMIT_MS,
    });
    await mustRun(guest, 'mkfs.ext4 -q /dev/ubda && mkdir -p /mnt/demo && mount /dev/ubda /mnt/demo');
    return {
      machine: guest,
      isGuest: true,
      dir: '/mnt/demo',
      async [Symbol.asyncDispose]() {
        await guest[Symbol.asyncDispose]();
        await rm(diskDir, { recursive: true, force: true });
      },
    };
  } catch (error) {
    await rm(diskDir, { recursive: true, force: true });
    throw error;
  }
}
