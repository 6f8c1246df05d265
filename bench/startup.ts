// How long a daemon with 500 volumes takes from its start to the first answer of its API, after a clean
// stop and after SIGKILL.
//
//   npm run bench -- startup [--quick] [--volumes N] [--rounds N]

import { parseArgs } from 'node:util';
import { type Daemon, startDaemon } from './support/holdfast.ts';
import { describeMachine, printMachine } from './support/machine.ts';
import { withScratch } from './support/scratch.ts';
import { median } from './support/statistics.ts';

const GOAL_MS = 2000;
const SIZE_BYTES = 2 ** 30;
const ENDS: readonly [string, (daemon: Daemon) => Promise<void>][] = [
  ['after a clean stop', (daemon) => daemon.stop()],
  ['after SIGKILL', (daemon) => daemon.kill()],
];

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    volumes: { type: 'string' },
    rounds: { type: 'string' },
  },
});
const volumeCount = Number(values.volumes ?? (values.quick ? 50 : 500));
const rounds = Number(values.rounds ?? (values.quick ? 1 : 5));

function start(directory: string): Promise<Daemon> {
  return startDaemon({ directory, pools: { pool: 'direct' }, flags: ['--overcommit=1000'] });
}

async function measure(directory: string): Promise<void> {
  let daemon = await start(directory);
  try {
    console.log(`no volume            ${daemon.startMs.toFixed(0)} ms`);
    const createdAt = performance.now();
    for (let index = 0; index < volumeCount; index += 1) {
      await daemon.createVolume(`v${index}`, 'pool', SIZE_BYTES);
    }
    const createMs = (performance.now() - createdAt) / volumeCount;
    console.log(`create               ${createMs.toFixed(1)} ms a volume, one after the other`);
    for (const [name, end] of ENDS) {
      const startsMs: number[] = [];
      for (let round = 0; round < rounds; round += 1) {
        await end(daemon);
        daemon = await start(directory);
        startsMs.push(daemon.startMs);
      }
      const middleMs = median(startsMs);
      const all = startsMs.map((ms) => ms.toFixed(0)).join(', ');
      console.log(
        `${name.padEnd(21)}${middleMs.toFixed(0)} ms with ${volumeCount} volumes (goal: below ${GOAL_MS} ms; all: ${all})`,
      );
      if (middleMs >= GOAL_MS) process.exitCode = 1;
    }
  } finally {
    await daemon.stop();
  }
}

printMachine(describeMachine('/var/tmp'));
await withScratch(measure);
