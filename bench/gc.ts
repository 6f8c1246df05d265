// Garbage collections of the data-plane threads under steady 4 KiB load: there must be none, and one object
// a request, planted, must show. Counted by V8 in the threads themselves (metric
// holdfast_thread_garbage_collections_total).
//
//   npm run bench -- gc [--quick] [--seconds N]

import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { parseArgs } from 'node:util';
import { fill, type Job, runJob } from './support/fio.ts';
import { startDaemon } from './support/holdfast.ts';
import { describeMachine, printMachine, root } from './support/machine.ts';
import { withScratch } from './support/scratch.ts';

const JOB: Job = { name: '4k random mix', pattern: 'randrw', blockBytes: 4096, depth: 32 };
const SIZE_BYTES = 256 * 2 ** 20;
const COLLECTIONS = 'holdfast_thread_garbage_collections_total';
/** Until V8 has compiled what is hot: compiling allocates. */
const WARM_UP_SECONDS = 5;

const { values } = parseArgs({
  options: { quick: { type: 'boolean', default: false }, seconds: { type: 'string' } },
});
const seconds = Number(values.seconds ?? (values.quick ? 5 : 30));

interface Count {
  readonly collections: number;
  readonly requests: number;
}

function collectionsUnderLoad(
  ioMode: 'buffered' | 'direct',
  environment: Readonly<Record<string, string>>,
): Promise<Count> {
  return withScratch(async (directory) => {
    const daemon = await startDaemon({ directory, pools: { pool: ioMode }, metrics: true, environment });
    try {
      await daemon.createVolume('volume', 'pool', SIZE_BYTES);
      const uri = await daemon.exportVolume('volume');
      await fill(uri, SIZE_BYTES, 4096);
      await runJob(JOB, [uri], SIZE_BYTES, WARM_UP_SECONDS, undefined);
      // The first answer compiles what answering takes.
      await daemon.metric(COLLECTIONS);
      const before = await daemon.metric(COLLECTIONS);
      const { requests } = await runJob(JOB, [uri], SIZE_BYTES, seconds, undefined);
      return { collections: (await daemon.metric(COLLECTIONS)) - before, requests };
    } finally {
      await daemon.stop();
    }
  });
}

printMachine(describeMachine('/var/tmp'));
console.log(`workload    fio nbd engine, 4k random reads and writes, QD32, ${seconds} s after a warm-up`);
let isAsExpected = true;
for (const ioMode of ['buffered', 'direct'] as const) {
  const { collections, requests } = await collectionsUnderLoad(ioMode, {});
  console.log(`${ioMode.padEnd(12)}${collections} collections in ${requests} requests (goal: 0)`);
  isAsExpected &&= collections === 0;
}
const plant = pathToFileURL(join(root, 'bench/support/plant-object.ts')).href;
const planted = await collectionsUnderLoad('buffered', { NODE_OPTIONS: `--import=${plant}` });
console.log(
  `planted     ${planted.collections} collections in ${planted.requests} requests (must be more than 0)`,
);
isAsExpected &&= planted.collections > 0;
if (!isAsExpected) process.exitCode = 1;
