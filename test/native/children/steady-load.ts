// A million calls of enter, each with a batch of NOPs, and nothing else. Run with --trace-gc: what the calls
// allocate shows as scavenges between the two marks. With `plant` one object per call is made on purpose.

import { writeSync } from 'node:fs';
import { native } from '../../../src/dataplane/native.ts';

const CALL_COUNT = 1_000_000;
const BATCH = 4;
const ring = native.createRing(8, 16);
const queues = new Int32Array(ring.memory);
const sqTailAt = ring.offsets.sqTail >> 2;
const cqHeadAt = ring.offsets.cqHead >> 2;
const planted: unknown[] = [0];

function turn(): void {
  // The entries stay as they are: opcode 0 is NOP.
  Atomics.store(queues, sqTailAt, (Atomics.load(queues, sqTailAt) + BATCH) | 0);
  if (native.enter(ring, BATCH, BATCH, 0, -1) !== BATCH) throw new Error('not submitted');
  Atomics.store(queues, cqHeadAt, (Atomics.load(queues, cqHeadAt) + BATCH) | 0);
}

function load(plants: boolean): void {
  for (let i = 0; i < CALL_COUNT; i++) {
    turn();
    if (plants) planted[0] = { call: i };
  }
}

for (let i = 0; i < 20_000; i++) turn();
(globalThis as { gc?: () => void }).gc?.();
writeSync(1, 'begin\n');
const start = native.bootTimeMs();
load(process.argv[2] === 'plant');
writeSync(1, `end ${((native.bootTimeMs() - start) * 1e6) / CALL_COUNT} ns a call\n`);
