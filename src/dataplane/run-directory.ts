// The run directory: memory (a tmpfs) for what must outlive a killed daemon but not the machine's boot.
//
// On a disk the same files would cost steady writes, stalls of the data-plane threads whenever the kernel writes
// a page back, and SIGBUS when the disk fails (ADR 0003). So what is not a tmpfs is refused when it was asked
// for, and warned of when it is all that there is.

import { access, constants, lstat, mkdir, realpath, rmdir, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { errorText, HoldfastError } from '../core/errors.ts';

const TMPFS_MAGIC = 0x01021994;
const WINDOW_DIRECTORY_NAME = 'window';

export interface RunDirectory {
  readonly path: string;
  /** For the log. */
  readonly warning: string | undefined;
}

/** INVALID: `asked` cannot be used or is no tmpfs. UNSUPPORTED: nothing was asked for, and none of the usual places will do. */
export async function findRunDirectory(
  asked: string | undefined,
  usual: readonly string[] = ['/run/holdfast', `/dev/shm/holdfast-${process.geteuid?.() ?? 0}`],
): Promise<RunDirectory> {
  if (asked !== undefined) return { path: await requireTmpfs(asked), warning: undefined };
  const problems: string[] = [];
  const onDisk: string[] = [];
  for (const path of usual) {
    try {
      if (await isTmpfsOnceMade(path)) return { path, warning: undefined };
      problems.push(`${path} is no tmpfs`);
      onDisk.push(path);
    } catch (error) {
      problems.push(errorText(error));
    }
  }
  const remedy = 'name a directory on a tmpfs with --run-dir';
  const [path] = onDisk;
  if (path === undefined) {
    throw new HoldfastError('UNSUPPORTED', `there is no run directory (${problems.join('; ')}): ${remedy}`);
  }
  await prepare(path);
  return { path, warning: `${problems.join('; ')}: every write also writes to that disk; ${remedy}` };
}

/** Where the windows are, made if it is missing: an administrator's broom may pass at any time. */
export async function windowDirectoryOf(runDirectory: string): Promise<string> {
  const path = join(runDirectory, WINDOW_DIRECTORY_NAME);
  await mkdir(path, { recursive: true, mode: 0o700 });
  return path;
}

async function requireTmpfs(asked: string): Promise<string> {
  try {
    await mkdir(asked, { recursive: true, mode: 0o755 });
    const path = await realpath(asked);
    await prepare(path);
    if (await isTmpfs(path)) return path;
  } catch (error) {
    throw new HoldfastError('INVALID', `--run-dir ${asked} cannot be used: ${errorText(error)}`, {
      cause: error,
    });
  }
  throw new HoldfastError(
    'INVALID',
    `--run-dir ${asked} is no tmpfs: name a directory on one (below /run or /dev/shm, say) or leave the option out`,
  );
}

async function isTmpfsOnceMade(path: string): Promise<boolean> {
  const made = await mkdir(path, { recursive: true, mode: 0o755 });
  if (await isTmpfs(path)) {
    await prepare(path);
    return true;
  }
  if (made !== undefined) await rmdir(path).catch(() => undefined);
  return false;
}

async function isTmpfs(path: string): Promise<boolean> {
  return (await statfs(path)).type === TMPFS_MAGIC;
}

/** Below /dev/shm anybody may make a directory: one that is another user's could change under us. */
async function prepare(path: string): Promise<void> {
  const user = process.geteuid?.() ?? 0;
  await mkdir(path, { recursive: true, mode: 0o755 });
  await requireOwner(path, [user, 0], user);
  // Only now: in a directory of somebody else's nothing is made.
  await requireOwner(await windowDirectoryOf(path), [user], user);
  await access(join(path, WINDOW_DIRECTORY_NAME), constants.W_OK | constants.X_OK);
}

async function requireOwner(directory: string, owners: readonly number[], user: number): Promise<void> {
  const status = await lstat(directory);
  if (status.isDirectory() && owners.includes(status.uid)) return;
  throw new HoldfastError('INVALID', `${directory} is not a directory of user ${user}`);
}
