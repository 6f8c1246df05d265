// Looks for users of a block device that the daemon's own mount table does not show: mounts in other mount
// namespaces, open descriptors of any process, and whoever has it for himself alone. A process of its own
// (`deviceUsers` starts it): what it looks at may hang, and then only it does.
//
//   node device-users-worker.ts DEVICE MAJOR:MINOR       prints one user a line
//
// It needs the machine's processes in /proc: in a container without hostPID it sees its own only, and a claim.

import { constants, openSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { type Mount, parseMountInfo, showsDevice } from './mountinfo.ts';

/** Enough for an error to name; the search ends there. */
const MAX_USERS = 10;
/** A look at a file of theirs may wait for a server that is gone. */
const NETWORK_FILE_SYSTEM = /^(nfs|cifs|smb|fuse|9p|ceph|afs|lustre|glusterfs|gfs2|ocfs2|beegfs)/;

interface Process {
  readonly directory: string;
  /** '1234 (postgres)' */
  readonly name: string;
}

/** Undefined: the process has ended meanwhile, or is none that can be looked at. */
function ifThere<T>(look: () => T): T | undefined {
  try {
    return look();
  } catch {
    return undefined;
  }
}

function processes(): Process[] {
  return readdirSync('/proc')
    .filter((name) => /^[0-9]+$/.test(name) && Number(name) !== process.pid)
    .map((id) => {
      const command = ifThere(() => readFileSync(`/proc/${id}/comm`, 'utf8').trim()) ?? 'ended';
      return { directory: `/proc/${id}`, name: `${id} (${command})` };
    });
}

/** The mounts of every mount namespace that a process lives in, and one process of each. */
function mountTables(all: readonly Process[]): { process: Process; mounts: readonly Mount[] }[] {
  const seen = new Set<string>();
  return all.flatMap((process) => {
    const namespace = ifThere(() => readlinkSync(`${process.directory}/ns/mnt`));
    if (namespace === undefined || seen.has(namespace)) return [];
    const text = ifThere(() => readFileSync(`${process.directory}/mountinfo`, 'utf8'));
    if (text === undefined) return [];
    seen.add(namespace);
    return [{ process, mounts: parseMountInfo(text) }];
  });
}

function hasOpen({ directory }: Process, rdev: number, networkMounts: ReadonlySet<number>): boolean {
  const descriptors = ifThere(() => readdirSync(`${directory}/fd`)) ?? [];
  return descriptors.some((fd) =>
    ifThere(() => {
      if (!readlinkSync(`${directory}/fd/${fd}`).startsWith('/')) return false; // a socket, a pipe
      if (networkMounts.size > 0) {
        const info = readFileSync(`${directory}/fdinfo/${fd}`, 'utf8');
        if (networkMounts.has(Number(/^mnt_id:\s*([0-9]+)$/m.exec(info)?.[1]))) return false;
      }
      const status = statSync(`${directory}/fd/${fd}`);
      return status.isBlockDevice() && status.rdev === rdev;
    }),
  );
}

/** EBUSY alone proves a claim: a mounted file system, also one in no mount table any more that is being written back. */
function isClaimed(devicePath: string): boolean {
  try {
    openSync(devicePath, constants.O_RDONLY | constants.O_EXCL);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EBUSY';
  }
}

function* users(devicePath: string, deviceNumber: string): Generator<string> {
  const rdev = ifThere(() => statSync(devicePath).rdev);
  if (rdev === undefined) return;
  const all = processes();
  const tables = mountTables(all);
  let isExplained = false;
  for (const { process, mounts } of tables) {
    for (const mount of mounts.filter((each) => showsDevice(each, devicePath, deviceNumber))) {
      isExplained = true;
      yield `mounted at ${mount.mountPoint} in the mount namespace of process ${process.name}`;
    }
  }
  const network = tables
    .flatMap(({ mounts }) => mounts)
    .filter(({ fileSystem }) => NETWORK_FILE_SYSTEM.test(fileSystem));
  const networkMounts = new Set(network.map(({ id }) => id));
  for (const process of all) {
    if (!hasOpen(process, rdev, networkMounts)) continue;
    isExplained = true;
    yield `open in process ${process.name}`;
  }
  if (!isExplained && isClaimed(devicePath)) yield 'still being written back, or claimed by the kernel';
}

const [devicePath = '', deviceNumber = ''] = process.argv.slice(2);
let count = 0;
for (const user of users(devicePath, deviceNumber)) {
  console.log(user);
  if (++count === MAX_USERS) break;
}
