// Another project's server in the daemon's place: qemu-nbd on a file of the pool. It shows that the rig itself is
// sound: an honest server passes, one that ignores flushes is caught.

import type { Guest } from '../guest.ts';
import { mustRun } from '../machine.ts';
import { POOL_DIR, type Target, VOLUME_BYTES } from './rig.ts';

const SOCKET = '/run/stand-in';
const FILE = `${POOL_DIR}/volume`;

export function standIn(cache: 'none' | 'unsafe'): Target {
  return {
    modules: ['nbd max_part=0 nbds_max=1'],
    inspect: () => Promise.resolve(new Set()),
    async start(guest: Guest): Promise<string> {
      await mustRun(
        guest,
        `[ -e ${FILE} ] || { truncate -s ${VOLUME_BYTES} ${FILE} && sync; }
         qemu-nbd --persistent --fork --socket=${SOCKET} --cache=${cache} --discard=unmap --format=raw ${FILE}
         nbd-client -unix ${SOCKET} /dev/nbd0`,
      );
      return '/dev/nbd0';
    },
    check: () => Promise.resolve([]),
    stir: () => {},
  };
}
