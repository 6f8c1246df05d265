// A process that changes a pool until it is killed:  node pool-child.fixture.ts WHAT POOL-DIRECTORY
// It prints one number a line: what has been done for good.

import { setImmediate } from 'node:timers/promises';
import { GIB, MIB } from '../../src/core/units.ts';
import { native } from '../../src/dataplane/native.ts';
import { createReplica, growReplica } from '../../src/dataplane/replica-files.ts';
import { WINDOW_ENTRY_COUNT, WINDOW_FILE_BYTES, WindowFile } from '../../src/replication/layout/window.ts';
import { BOOT, openPool, specOf, VOLUME, deleteReplica, openReplica } from './pool-support.ts';

const [what = '', directory = ''] = process.argv.slice(2);
const pool = await openPool(directory);
const loops: Record<string, () => Promise<void>> = { churn, update, window };
await loops[what]?.();

/** Replica number n has n MiB and grows by 20 GiB; odd ones are opened too. */
async function churn(): Promise<void> {
  for (let number = 1; ; number++) {
    await createReplica(pool, specOf(VOLUME, number * MIB));
    if (number % 2 === 1) await (await openReplica(pool, VOLUME, BOOT)).release();
    await growReplica(pool, VOLUME, number * MIB + 20 * GIB);
    await deleteReplica(pool, VOLUME);
    process.stdout.write(`${number}\n`);
  }
}

async function update(): Promise<void> {
  const replica = await openReplica(pool, VOLUME, BOOT);
  for (let number = 2; ; number++) {
    await replica.superblock.update({ promisedEpoch: number, attachmentNumber: number });
    process.stdout.write(`${number}\n`);
  }
}

/** Every field of an entry follows from its sequence, so that a mixture of two is recognised. */
async function window(): Promise<void> {
  const replica = await openReplica(pool, VOLUME, BOOT);
  const file = new WindowFile(native.mapFile(replica.windowFd, WINDOW_FILE_BYTES).buffer);
  file.reset(replica.window.owner);
  for (let sequence = 1; ; sequence++) {
    if (sequence > 500) file.clear(((sequence - 500) * 7) % WINDOW_ENTRY_COUNT);
    const entryIndex = (sequence * 7) % WINDOW_ENTRY_COUNT;
    file.put(
      entryIndex,
      sequence % 1000,
      sequence % 7,
      sequence % 11,
      sequence,
      sequence * 4096,
      sequence % 65536,
    );
    // From here on there are entries, and the parent may kill.
    if (sequence === 1000) process.stdout.write('0\n');
    // Lets the line leave the process.
    if (sequence % 10_000 === 0) await setImmediate();
  }
}
