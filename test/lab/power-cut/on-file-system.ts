// A target whose volume carries a file system: the writer works on a file of it. What that adds to the raw device:
// synchronous overwrites reach the volume as FUA without a flush behind them, and a journal has to recover.

import type { Guest } from '../guest.ts';
import { mustRun } from '../machine.ts';
import type { Target } from './rig.ts';

const MOUNT_DIR = '/mnt/volume';
const FILE = `${MOUNT_DIR}/file`;

export function onFileSystem(target: Target): Target {
  let isMade = false;
  return {
    modules: target.modules,
    // The file's blocks lie anywhere in the volume: what is known of its extents says nothing here.
    inspect: () => Promise.resolve(new Set()),
    async start(guest: Guest, roundDir: string, layout): Promise<string> {
      const device = await target.start(guest, roundDir, layout);
      if (!isMade) {
        const { extentBytes, chunkBytes, extentCount } = layout;
        await mustRun(
          guest,
          `mkfs.ext4 -q ${device} && mkdir ${MOUNT_DIR} && mount ${device} ${MOUNT_DIR}
           for ((extent = 0; extent < ${extentCount}; extent++)); do
             dd if=/dev/zero of=${FILE} bs=${chunkBytes} count=1 oflag=direct,seek_bytes status=none \\
               seek=$((extent * ${extentBytes})) conv=notrunc
           done && sync`,
          { timeoutMs: 120_000 },
        );
        isMade = true;
      } else {
        // The journal recovers at the mount; then nothing may be left to mend.
        await mustRun(
          guest,
          `mkdir ${MOUNT_DIR} && mount ${device} ${MOUNT_DIR} && umount ${MOUNT_DIR} && e2fsck -fn ${device} &&
           mount ${device} ${MOUNT_DIR}`,
          { timeoutMs: 120_000 },
        );
      }
      return FILE;
    },
    check: () => target.check(),
    stir: () => target.stir(),
  };
}
