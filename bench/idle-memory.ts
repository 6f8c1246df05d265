// Resident memory of a daemon that has 100 volumes open and exported and nothing to do.
//
//   npm run bench -- idle-memory [--quick] [--volumes N]

import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { startDaemon } from './support/holdfast.ts';
import { describeMachine, printMachine } from './support/machine.ts';
import { residentBytes } from './support/processes.ts';
import { withScratch } from './support/scratch.ts';

const GOAL_MIB = 300;
const SIZE_BYTES = 10 * 2 ** 30;

const { values } = parseArgs({
  options: { quick: { type: 'boolean', default: false }, volumes: { type: 'string' } },
});
const volumeCount = Number(values.volumes ?? 100);
const settleMs = values.quick ? 500 : 3000;
const mib = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(0)} MiB`;

printMachine(describeMachine('/var/tmp'));
await withScratch(async (directory) => {
  const daemon = await startDaemon({ directory, pools: { pool: 'direct' }, flags: ['--overcommit=1000'] });
  try {
    await sleep(settleMs);
    const emptyBytes = residentBytes(daemon.pid);
    for (let index = 0; index < volumeCount; index += 1) {
      await daemon.createVolume(`v${index}`, 'pool', SIZE_BYTES);
      await daemon.exportVolume(`v${index}`);
    }
    await sleep(settleMs);
    const bytes = residentBytes(daemon.pid);
    console.log(`no volume   ${mib(emptyBytes)} resident`);
    console.log(`${volumeCount} volumes ${mib(bytes)} resident (goal: below ${GOAL_MIB} MiB)`);
    if (bytes >= GOAL_MIB * 2 ** 20) process.exitCode = 1;
  } finally {
    await daemon.stop();
  }
});
