// What a node needs to hold and serve volumes, looked at one by one. Nothing is changed; the only thing
// written is a scratch file for the flush measurement, removed again.

import { accessSync, constants, existsSync, readFileSync } from 'node:fs';
import { mkdtemp, open, rm, stat, statfs } from 'node:fs/promises';
import { release } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';
import { errorText } from '../core/errors.ts';
import { formatSize } from './values.ts';

export interface Check {
  readonly name: string;
  /** problem: Holdfast does not work here; warning: it works less well, or not for everything. */
  readonly level: 'ok' | 'warning' | 'problem';
  readonly found: string;
  /** Empty when there is nothing to do. */
  readonly remedy: string;
}

type Finding = Omit<Check, 'name'>;
const ok = (found: string): Finding => ({ level: 'ok', found, remedy: '' });
const warning = (found: string, remedy: string): Finding => ({ level: 'warning', found, remedy });
const problem = (found: string, remedy: string): Finding => ({ level: 'problem', found, remedy });

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function kernel(): Finding {
  const version = release();
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const number = major * 100 + minor;
  if (number < 514)
    return problem(
      version,
      'run Linux 5.14 or newer: older kernels cannot hold a device for a restarted daemon',
    );
  if (number < 601)
    return warning(version, 'Linux 6.1 or newer serves faster (io_uring SINGLE_ISSUER and DEFER_TASKRUN)');
  return ok(version);
}

/** Why io_uring is refused, in words that lead to the remedy. */
export function ringRemedy(errno: number): string {
  const disabled = read('/proc/sys/kernel/io_uring_disabled').trim();
  if (disabled === '1' || disabled === '2') {
    return `kernel.io_uring_disabled is ${disabled}; type: sysctl -w kernel.io_uring_disabled=0 (and keep it in /etc/sysctl.d)`;
  }
  if (errno === 38)
    return 'this kernel was built without io_uring; run Linux 5.14 or newer with CONFIG_IO_URING';
  if (errno === 1 || errno === 13) {
    return 'a seccomp profile or security module forbids io_uring; allow io_uring_setup, io_uring_enter and io_uring_register, or run the container with seccompProfile Unconfined';
  }
  if (errno === 12)
    return 'locked memory is limited; raise the limit (ulimit -l unlimited, LimitMEMLOCK=infinity)';
  return 'see io_uring_setup(2) for what this error means';
}

async function ring(): Promise<Finding> {
  try {
    const { native } = await import('../dataplane/native.ts');
    const probe = native.probeRing();
    if (probe.errno !== 0) return problem(`refused with errno ${probe.errno}`, ringRemedy(probe.errno));
    return ok(`set-up flags 0x${probe.setupFlags.toString(16)}, features 0x${probe.features.toString(16)}`);
  } catch (error) {
    return problem(`the addon cannot be loaded: ${errorText(error)}`, 'build it: npm run setup');
  }
}

function nbdModule(): Finding {
  if (existsSync('/sys/module/nbd')) return ok('loaded');
  const directory = `/lib/modules/${release()}`;
  if (read(`${directory}/modules.builtin`).includes('/nbd.ko')) return ok('built in');
  if (read(`${directory}/modules.dep`).includes('/nbd.ko')) {
    return warning('there, not loaded', 'type: modprobe nbd max_part=0 (the daemon tries to, as root)');
  }
  return problem(
    `kernel ${release()} has none in ${directory}`,
    "install the kernel's module package (linux-modules-extra, kernel-modules); without it volumes can be exported, not attached",
  );
}

const PATH_DIRECTORIES = [
  ...(process.env['PATH'] ?? '').split(delimiter),
  '/usr/sbin',
  '/sbin',
  '/usr/bin',
  '/bin',
];

function isProgram(name: string): boolean {
  return PATH_DIRECTORIES.some((directory) => {
    try {
      accessSync(join(directory, name), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

function programs(names: readonly string[], packages: string, level: 'problem' | 'warning'): Finding {
  const missing = names.filter((name) => !isProgram(name));
  if (missing.length === 0) return ok(names.join(', '));
  const found = `missing: ${missing.join(', ')}`;
  const remedy = `install them; on Debian: apt-get install ${packages}`;
  return level === 'problem' ? problem(found, remedy) : warning(found, remedy);
}

const CAP_IPC_LOCK = 14;
const CAP_SYS_RESOURCE = 24;

function hasCapability(bit: number): boolean {
  const hex = /^CapEff:\s*([0-9a-f]+)$/m.exec(read('/proc/self/status'))?.[1];
  return hex !== undefined && (BigInt(`0x${hex}`) >> BigInt(bit)) % 2n === 1n;
}

function lockedMemory(): Finding {
  const limit = /^Max locked memory\s+(\S+)/m.exec(read('/proc/self/limits'))?.[1] ?? 'unknown';
  if (limit === 'unlimited' || hasCapability(CAP_IPC_LOCK)) return ok(`limit ${limit}`);
  return warning(
    `limit ${limit} bytes and no CAP_IPC_LOCK`,
    'run as root or with LimitMEMLOCK=infinity: a daemon that is swapped out may wait for its own device',
  );
}

function ioFlusher(): Finding {
  if (hasCapability(CAP_SYS_RESOURCE)) return ok('CAP_SYS_RESOURCE is held');
  return warning(
    'no CAP_SYS_RESOURCE',
    'run as root or add the capability: without PR_SET_IO_FLUSHER the daemon may wait for memory that only it can free',
  );
}

function nearestExisting(path: string): string {
  const directory = resolve(path);
  return existsSync(directory) || directory === '/' ? directory : nearestExisting(dirname(directory));
}

const FLUSH_COUNT = 200;
const FLUSH_TIME_MS = 3000;

/** Times of write + fdatasync of 4 KiB, sorted, in milliseconds. */
async function measureFlushes(directory: string): Promise<{ times: number[]; isDirect: boolean }> {
  const scratch = await mkdtemp(join(directory, '.holdfast-preflight-'));
  try {
    const path = join(scratch, 'flush');
    const file = await open(path, 'w');
    const times: number[] = [];
    try {
      const block = Buffer.alloc(4096, 1);
      const end = performance.now() + FLUSH_TIME_MS;
      while (times.length < FLUSH_COUNT && performance.now() < end) {
        const started = performance.now();
        await file.write(block, 0, block.length, times.length * block.length);
        await file.datasync();
        times.push(performance.now() - started);
      }
    } finally {
      await file.close();
    }
    const isDirect = await open(path, constants.O_RDWR | constants.O_DIRECT).then(
      async (direct) => {
        await direct.close();
        return true;
      },
      () => false,
    );
    return { times: times.sort((a, b) => a - b), isDirect };
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function flushes(path: string): Promise<Finding> {
  const directory = nearestExisting(path);
  try {
    if (!(await stat(directory)).isDirectory())
      return problem(`${directory} is no directory`, 'name another with --dir');
    const { times, isDirect } = await measureFlushes(directory);
    const at = (share: number): number =>
      times[Math.min(times.length - 1, Math.floor(times.length * share))] ?? 0;
    const found = `${directory}: fdatasync p50 ${at(0.5).toFixed(2)} ms, p99 ${at(0.99).toFixed(2)} ms (${times.length} flushes), O_DIRECT ${isDirect ? 'yes' : 'no'}`;
    if (at(0.99) > 100)
      return warning(
        found,
        'a disk that flushes this slowly makes databases wait; use an SSD with power-loss protection',
      );
    if (!isDirect) return warning(found, 'pools here work buffered (io=buffered): data is cached twice');
    return ok(found);
  } catch (error) {
    return problem(`${directory}: ${errorText(error)}`, 'name a directory this user may write with --dir');
  }
}

async function room(path: string): Promise<Finding> {
  const directory = nearestExisting(path);
  const space = await statfs(directory);
  const freeBytes = space.bavail * space.bsize;
  const found = `${directory}: ${formatSize(freeBytes)} free of ${formatSize(space.blocks * space.bsize)}`;
  return freeBytes < 2 ** 30 ? warning(found, 'give pools a file system with room') : ok(found);
}

/** All checks, in the order in which a person would mend them. `directory` is where a pool is to be. */
export async function preflight(directory: string): Promise<Check[]> {
  const findings: Record<string, Finding> = {
    kernel: kernel(),
    io_uring: await ring(),
    'nbd module': nbdModule(),
    'mount tools': programs(['mount', 'umount', 'blkid'], 'util-linux mount', 'problem'),
    'ext tools': programs(['mkfs.ext4', 'resize2fs', 'e2fsck'], 'e2fsprogs', 'problem'),
    'xfs tools': programs(['mkfs.xfs', 'xfs_growfs'], 'xfsprogs', 'warning'),
    encryption: programs(['cryptsetup'], 'cryptsetup-bin', 'warning'),
    'locked memory': lockedMemory(),
    'io flusher': ioFlusher(),
    flushes: await flushes(directory),
    room: await room(directory),
  };
  return Object.entries(findings).map(([name, finding]) => ({ name, ...finding }));
}
