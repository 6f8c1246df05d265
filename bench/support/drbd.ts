// DRBD, the kernel's own synchronous replication, between two lab guests: protocol C, so that a write is acknowledged
// when it is on both disks, as ours is.

import { setTimeout as sleep } from 'node:timers/promises';
import type { Guest } from '../../test/lab/guest.ts';
import { mustRun } from '../../test/lab/machine.ts';

const CONFIGURATION = '/run/drbd.conf';
const PORT = 7789;
const CONNECT_MS = 300_000;

export interface DrbdSides {
  /** It becomes the primary. */
  readonly user: Guest;
  readonly peer: Guest;
  /** The disk beneath, on both. */
  readonly disk: string;
}

/** Module and parameters, for Guest. No helper: nothing of the host's DRBD, if it has one, is to be called. */
export const DRBD_MODULE = 'drbd usermode_helper=disabled';

/** Both disks are up to date, and the device can be written; returns it. */
export async function startDrbd({ user, peer, disk }: DrbdSides): Promise<string> {
  const configuration = describe([user, peer], disk);
  for (const guest of [user, peer]) {
    await mustRun(guest, `mkdir -p /run/lock && cat >${CONFIGURATION} <<'END'\n${configuration}END`);
    await drbdadm(guest, 'create-md --force bench');
    await drbdadm(guest, 'up bench');
  }
  await until(user, 'Connected');
  // Two new disks are declared equal: what is measured is written before it is read.
  await drbdadm(user, 'new-current-uuid --clear-bitmap bench');
  await until(user, 'UpToDate/UpToDate');
  await drbdadm(user, 'primary bench');
  return '/dev/drbd0';
}

/** With what DRBD's own guide advises for throughput; everything else as it comes. */
function describe(guests: readonly Guest[], disk: string): string {
  const sides = guests.map((guest) => `  on ${guest.name} { address ${guest.address}:${PORT}; }\n`);
  return (
    'global { usage-count no; }\n' +
    'resource bench {\n' +
    '  net { protocol C; max-buffers 8000; max-epoch-size 8000; sndbuf-size 512k; }\n' +
    '  disk { al-extents 6007; }\n' +
    `  device minor 0;\n  disk ${disk};\n  meta-disk internal;\n${sides.join('')}}\n`
  );
}

async function drbdadm(guest: Guest, words: string): Promise<void> {
  await mustRun(guest, `drbdadm -c ${CONFIGURATION} ${words}`);
}

async function until(guest: Guest, word: string): Promise<void> {
  const deadlineMs = performance.now() + CONNECT_MS;
  for (;;) {
    const state = await mustRun(guest, ['cat', '/proc/drbd']);
    if (state.includes(word)) return;
    if (performance.now() > deadlineMs) throw new Error(`DRBD is not ${word}:\n${state}`);
    await sleep(300);
  }
}
