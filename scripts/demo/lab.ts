// Where the demo runs: as root on a host whose kernel has nbd, on that host: it loads the module (and unloads it, if it
// was not loaded before), attaches /dev/nbdN and mounts it below /var/tmp, and the pool is a directory there. Else in a
// lab guest with a kernel of its own and an ext4 file system for the pool.

import { execFileSync } from 'node:child_process';
import { mkdtemp, open, readdir, rm } from 'node:fs/promises';
import { existsSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GIB } from '../../src/core/units.ts';
import { disconnectDevice } from '../../src/host/nbd-kernel.ts';
import { NbdSysfs } from '../../src/host/nbd-sysfs.ts';
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
  /** For the daemon's run directory, where the machine outlives the demo; it has its own then. */
  readonly runDir?: string;
  /** Takes everything away, whatever state it is in. Any number of times. */
  [Symbol.asyncDispose](): Promise<void>;
}

export async function openDemoLab(): Promise<DemoLab> {
  const isLoaded = existsSync('/sys/module/nbd');
  if (hostHasNbd()) return await hostLab(!isLoaded);
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

async function hostLab(unloadsModule: boolean): Promise<DemoLab> {
  const machine = await HostMachine.create();
  const dir = await mkdtemp('/var/tmp/holdfast-demo-');
  const runDir = await mkdtemp('/dev/shm/holdfast-demo-');
  const takeAway = async (): Promise<void> => {
    // The daemon and whoever used its device, then the device: what still waits for it fails and ends. Only then can
    // its file system be unmounted. Whether jobs have ended is seen after that: a process may wait for the device.
    machine.killJobs();
    await removeDevices(join(dir, 'daemon/devices'));
    await machine.run(`findmnt -rno TARGET | grep ^${dir}/ | tac | xargs -r -n 1 umount`);
    await machine.run(`findmnt -rno TARGET | grep ^${dir}/ | tac | xargs -r umount -l`);
    if (unloadsModule) await machine.run(['modprobe', '-r', 'nbd']);
    await machine[Symbol.asyncDispose]();
    for (const path of [dir, runDir]) await rm(path, { recursive: true, force: true });
  };
  let takenAway: Promise<void> | undefined;
  return {
    machine,
    isGuest: false,
    dir,
    runDir,
    async [Symbol.asyncDispose]() {
      takenAway ??= takeAway();
      await takenAway;
    },
  };
}

/** Those of the demo's daemon only, by its own records. It is no more, or about to end. */
async function removeDevices(recordDirectory: string): Promise<void> {
  const volumeIds = await readdir(recordDirectory).catch((): string[] => []);
  const ours = new NbdSysfs().devices().filter(({ volumeId }) => volumeIds.includes(volumeId));
  for (const { index } of ours) await disconnectDevice(index, undefined);
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
