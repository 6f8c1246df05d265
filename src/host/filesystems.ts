// File systems on volumes: is the device blank, make, check, grow, measure. The choice whether to make one is
// the caller's (the volume record decides); here are the tools, each a child process with a deadline.

import { errorText, HoldfastError, isHoldfastError } from '../core/errors.ts';
import { MIB } from '../core/units.ts';
import { runCommand } from './run-command.ts';

export type FileSystemType = 'ext4' | 'ext3' | 'ext2' | 'xfs';
export const FILE_SYSTEM_TYPES = ['ext4', 'ext3', 'ext2', 'xfs'] as const satisfies readonly FileSystemType[];

/** What the tools refuse to make smaller: mkfs.xfs ends at 300 MB; an ext3 journal wants room. */
export const MIN_FILE_SYSTEM_BYTES: Readonly<Record<FileSystemType, number>> = {
  ext4: 8 * MIB,
  ext3: 8 * MIB,
  ext2: MIB,
  xfs: 300 * MIB,
};

const HOUR_MS = 3_600_000;
const READ_TIMEOUT_MS = 15_000;
/**
 * What a slow disk and a large volume may honestly take: work that is killed early is begun anew for ever.
 * Answers in time, while the work goes on, are the callers' business (csi/calls.ts).
 */
const MAKE_TIMEOUT_MS = 6 * HOUR_MS;
const CHECK_TIMEOUT_MS = 6 * HOUR_MS;
const GROW_TIMEOUT_MS = 6 * HOUR_MS;
const STATS_TIMEOUT_MS = 5000;

/**
 * Whether the first and the last MiB read as zeroes: read from the device itself, past the page cache. A
 * read that fails or comes short is an error and never 'blank': blkid's silence cannot tell the two apart.
 */
export async function isBlank(devicePath: string, sizeBytes: number): Promise<boolean> {
  const lengthBytes = Math.min(MIB, sizeBytes);
  for (const offsetBytes of new Set([0, sizeBytes - lengthBytes])) {
    const bytes = await readDirect(devicePath, offsetBytes, lengthBytes);
    if (!bytes.equals(Buffer.alloc(lengthBytes))) return false;
  }
  return true;
}

async function readDirect(devicePath: string, offsetBytes: number, lengthBytes: number): Promise<Buffer> {
  const position = [`skip=${offsetBytes}`, `bs=${lengthBytes}`, 'count=1', 'iflag=direct,skip_bytes'];
  const { stdout } = await runCommand('dd', [`if=${devicePath}`, ...position, 'status=none'], {
    timeoutMs: READ_TIMEOUT_MS,
    maxOutputBytes: lengthBytes,
  });
  if (stdout.length !== lengthBytes) {
    throw new HoldfastError(
      'IO',
      `${devicePath} gave ${stdout.length} of ${lengthBytes} bytes at ${offsetBytes}; its size is not what was expected`,
    );
  }
  return stdout;
}

/** The file system that blkid sees. undefined proves nothing: the device may be unreadable. */
export async function detectFileSystem(devicePath: string): Promise<string | undefined> {
  const { stdout } = await runCommand('blkid', ['-p', '-s', 'TYPE', '-o', 'value', '--', devicePath], {
    timeoutMs: READ_TIMEOUT_MS,
    exitCodes: [0, 2, 8], // 2: nothing found or unreadable, 8: ambivalent
  });
  const type = stdout.toString().trim();
  return type === '' ? undefined : type;
}

/**
 * Overwrites whatever is there. No discard: a new thin volume has nothing to give back. No blocks reserved
 * for root: a volume holds an application's data, not a system. Inode tables are left to the kernel
 * (lazily), the journal too where it is known to read as zeroes (`fresh`).
 */
export async function makeFileSystem(
  devicePath: string,
  type: FileSystemType,
  { fresh }: { fresh: boolean },
): Promise<void> {
  const lazily = `nodiscard,lazy_itable_init=1,lazy_journal_init=${fresh ? 1 : 0}`;
  const args = type === 'xfs' ? ['-f', '-K', '-q'] : ['-F', '-q', '-m', '0', '-E', lazily];
  await runCommand(`mkfs.${type}`, [...args, devicePath], { timeoutMs: MAKE_TIMEOUT_MS });
}

/** e2fsck(8): a sum of bits. */
const FSCK_REPAIRED = 1;
const FSCK_REPAIRED_REBOOT = 2;
const FSCK_DAMAGED = 4;

/**
 * Before a mount for writing: replays the journal and repairs what is safe to repair, at once when the file
 * system is clean. XFS does this when it is mounted. CONFLICT: damage that a person must decide about.
 */
export async function checkFileSystem(devicePath: string, type: FileSystemType): Promise<void> {
  if (type === 'xfs') return;
  try {
    await runCommand('e2fsck', ['-p', devicePath], {
      timeoutMs: CHECK_TIMEOUT_MS,
      exitCodes: [0, FSCK_REPAIRED, FSCK_REPAIRED_REBOOT, FSCK_REPAIRED | FSCK_REPAIRED_REBOOT],
    });
  } catch (error) {
    const exitCode = isHoldfastError(error, 'IO') ? Number(error.details['exitCode'] ?? 0) : 0;
    if ((exitCode & FSCK_DAMAGED) === 0) throw error;
    throw new HoldfastError(
      'CONFLICT',
      `the ${type} file system on ${devicePath} is damaged beyond what is repaired unasked: attach the volume and run e2fsck -f`,
      { cause: error },
    );
  }
}

/** Fills the device; already full is success. The file system is mounted, writable, at `mountPoint`. */
export async function growFileSystem(
  devicePath: string,
  mountPoint: string,
  type: FileSystemType,
): Promise<void> {
  if (type === 'xfs') {
    await runCommand('xfs_growfs', ['-d', mountPoint], { timeoutMs: GROW_TIMEOUT_MS });
    return;
  }
  try {
    await runCommand('resize2fs', [devicePath], { timeoutMs: GROW_TIMEOUT_MS });
  } catch (error) {
    if (!errorText(error).includes('Permission denied to resize')) throw error;
    throw new HoldfastError(
      'UNSUPPORTED',
      `growing a mounted ${type} file system takes CAP_SYS_RESOURCE: give it to the daemon (privileged: true)`,
      { cause: error },
    );
  }
}

interface Usage {
  readonly total: number;
  readonly used: number;
  readonly available: number;
}
export interface FileSystemStats {
  readonly bytes: Usage;
  readonly inodes: Usage;
}

/** statfs, in a process that can be left behind when the device hangs. */
export async function fileSystemStats(path: string): Promise<FileSystemStats> {
  const { stdout } = await runCommand('stat', ['-f', '-c', '%S %b %f %a %c %d', '--', path], {
    timeoutMs: STATS_TIMEOUT_MS,
  });
  const [block = 0, total = 0, free = 0, available = 0, inodes = 0, freeInodes = 0] = stdout
    .toString()
    .trim()
    .split(' ')
    .map(Number);
  return {
    bytes: { total: total * block, used: (total - free) * block, available: available * block },
    inodes: { total: inodes, used: inodes - freeInodes, available: freeInodes },
  };
}
