// What a node needs to hold and serve volumes, looked at one by one. Nothing is changed; the only thing
// written is a scratch file for the flush measurement, removed again.

import { accessSync, constants, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { errorText, isHoldfastError } from '../core/errors.ts';
import { NBD_MODULE_REMEDY } from '../host/nbd-kernel.ts';
import { NbdSysfs } from '../host/nbd-sysfs.ts';
import { runCommand } from '../host/run-command.ts';

import { type DirectoryFindings, type Finding, ok, problem, warning } from './preflight-finding.ts';

export interface Check extends Finding {
  readonly name: string;
}

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

export function nbdModule(sysfs = new NbdSysfs()): Finding {
  if (sysfs.hasModule()) {
    const partitions = sysfs.partitionsPerDevice();
    if (partitions === 0) return ok('loaded');
    return warning(
      `loaded with max_part=${partitions}: the kernel looks for partitions on every device that is attached`,
      'type: modprobe -r nbd && modprobe nbd max_part=0 (and keep "options nbd max_part=0" in /etc/modprobe.d)',
    );
  }
  const directory = `/lib/modules/${release()}`;
  if (read(`${directory}/modules.builtin`).includes('/nbd.ko')) return ok('built in');
  if (read(`${directory}/modules.dep`).includes('/nbd.ko')) {
    return warning('there, not loaded', 'type: modprobe nbd max_part=0 (the daemon tries to, as root)');
  }
  return problem(`kernel ${release()} has none in ${directory}`, NBD_MODULE_REMEDY);
}

/** Before 6.14 a signal that interrupts the sending of a request frees it while its second half is still to be sent. */
export function nbdDriver(version = release()): Finding {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  if (major * 100 + minor >= 614) return ok(version);
  return warning(
    `${version} may have a defect that 6.14 mends ("Double reply" in the kernel log): a device loses its connection`,
    'the daemon reconnects it, at the cost of a pause; keep the kernel up to date: distributions carry the correction back',
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

/** Beyond what slow disks take; the measurement itself ends by itself. */
const DIRECTORY_TIMEOUT_MS = 20_000;

/** In a process of its own: a disk or server that hangs must not hang whoever asks. */
export async function directoryFindings(
  directory: string,
  timeoutMs = DIRECTORY_TIMEOUT_MS,
): Promise<DirectoryFindings> {
  const worker = `./preflight-worker.${import.meta.url.endsWith('.ts') ? 'ts' : 'js'}`;
  const path = fileURLToPath(new URL(worker, import.meta.url));
  try {
    const { stdout } = await runCommand(process.execPath, [path, directory], { timeoutMs });
    return JSON.parse(stdout.toString()) as DirectoryFindings;
  } catch (error) {
    if (!isHoldfastError(error, 'TIMEOUT')) throw error;
    const hangs = problem(
      `${directory} has not answered within ${timeoutMs / 1000} s`,
      'its disk or server hangs: look at the kernel log and mend it, or name another directory with --dir',
    );
    return { flushes: hangs, room: hangs };
  }
}

/** All checks, in the order in which a person would mend them. `directory` is where a pool is to be. */
export async function preflight(directory: string): Promise<Check[]> {
  const { flushes, room } = await directoryFindings(directory);
  const findings: Record<string, Finding> = {
    kernel: kernel(),
    io_uring: await ring(),
    'nbd module': nbdModule(),
    'nbd driver': nbdDriver(),
    'mount tools': programs(['mount', 'umount', 'blkid'], 'util-linux mount', 'problem'),
    'ext tools': programs(['mkfs.ext4', 'resize2fs', 'e2fsck'], 'e2fsprogs', 'problem'),
    'xfs tools': programs(['mkfs.xfs', 'xfs_growfs'], 'xfsprogs', 'warning'),
    encryption: programs(['cryptsetup'], 'cryptsetup-bin', 'warning'),
    'locked memory': lockedMemory(),
    'io flusher': ioFlusher(),
    flushes,
    room,
  };
  return Object.entries(findings).map(([name, finding]) => ({ name, ...finding }));
}
