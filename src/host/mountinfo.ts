// /proc/self/mountinfo as data (proc(5)): the only source of what is mounted. The output of mount(8) is
// never parsed: it cannot tell bind mounts apart and is ambiguous about blanks. Pure.

export interface Mount {
  readonly id: number;
  readonly parentId: number;
  /** 'major:minor' of the file system's device: equal for every mount of one block device. */
  readonly device: string;
  /** The directory (or file) of that file system that is mounted here. */
  readonly root: string;
  readonly mountPoint: string;
  /** Of this mount: 'ro', 'rw', 'relatime', … */
  readonly options: readonly string[];
  readonly fileSystem: string;
  /** What was mounted: '/dev/nbd3', 'tmpfs', … */
  readonly source: string;
  /** Of the file system as a whole. */
  readonly superOptions: readonly string[];
}

/** In mount order: a later mount of the same path covers an earlier one. */
export function parseMountInfo(text: string): Mount[] {
  return text.split('\n').flatMap((line) => {
    const mount = parseLine(line);
    return mount === undefined ? [] : [mount];
  });
}

/** 36 35 98:0 /root /mount rw,noatime master:1 - ext4 /dev/nbd0 rw,errors=continue */
function parseLine(line: string): Mount | undefined {
  const fields = line.split(' ');
  const separator = fields.indexOf('-', 6);
  const [id, parentId, device, root, mountPoint, options] = fields;
  const [fileSystem, source, superOptions] = fields.slice(separator + 1);
  if (separator === -1 || device === undefined || root === undefined || mountPoint === undefined)
    return undefined;
  return {
    id: Number(id),
    parentId: Number(parentId),
    device,
    root: unescape(root),
    mountPoint: unescape(mountPoint),
    options: (options ?? '').split(','),
    fileSystem: unescape(fileSystem ?? ''),
    source: unescape(source ?? ''),
    superOptions: (superOptions ?? '').split(','),
  };
}

/** The kernel writes blank, tab, newline, backslash and '#' as three octal digits of a byte. */
function unescape(field: string): string {
  return field.replace(/\\([0-7]{3})/g, (_, digits: string) =>
    String.fromCharCode(Number.parseInt(digits, 8)),
  );
}

/** The mount that a look at `path` finds, if something is mounted on it. */
export function mountAt(mounts: readonly Mount[], path: string): Mount | undefined {
  return mounts.findLast((mount) => mount.mountPoint === path);
}

/** Whether it is a mount of this block device's file system, or of the device's own file (a block volume in a pod). */
export function showsDevice(mount: Mount, devicePath: string, deviceNumber: string | undefined): boolean {
  if (mount.device === deviceNumber) return true;
  // Where /dev is no devtmpfs (some containers) it is a tmpfs.
  const isDeviceFile = mount.fileSystem === 'devtmpfs' || mount.fileSystem === 'tmpfs';
  return isDeviceFile && `/dev${mount.root}` === devicePath;
}
