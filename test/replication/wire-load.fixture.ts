// A million frames encoded and decoded, and nothing else: what is collected meanwhile was allocated by them. 'plant'
// makes one object a frame, to show that it would be seen.

import { GCProfiler } from 'node:v8';
import * as frames from '../../src/replication/frames.ts';
import { FrameFields, OFFSET, SEQUENCE, TIME, WATERMARK } from '../../src/replication/frames.ts';
import { FrameReader, FrameWriter, OK, portableCrc32c, WireBuffer } from '../../src/replication/wire.ts';
import { HEARER_ANY } from '../../src/replication/wire-types.ts';

const isPlanted = process.argv[2] === 'plant';
const writer = new FrameWriter();
const reader = new FrameReader(portableCrc32c, HEARER_ANY);
writer.version = 1;
reader.version = 1;
const buffer = new WireBuffer(new Uint8Array(4096));
const sent = new FrameFields();
const heard = new FrameFields();
const kept: { frame: number }[] = [];

function exchange(count: number): void {
  for (let index = 0; index < count; index++) {
    const hasPayload = (index & 1) === 0;
    sent.type = hasPayload ? frames.FRAME_WRITE : frames.FRAME_DONE;
    sent.lengthBytes = 4096;
    sent.epoch = 7;
    sent.numbers[SEQUENCE] = 2 ** 40 + index;
    sent.numbers[OFFSET] = 4096 * index;
    sent.numbers[WATERMARK] = 2 ** 40 + index - 9;
    sent.numbers[TIME] = index / 8;
    if (hasPayload) writer.encodeSummed(buffer, 64, sent, 4096, ~index);
    else writer.encode(buffer, 64, sent);
    if (reader.decode(buffer, 64, heard) !== OK) throw new Error('a frame was not understood');
    if (isPlanted) kept[index & 1023] = { frame: index };
  }
}

/** Of one pass of a million. Not by --trace-gc: its lines come through a buffer of their own, at any time. */
function collectionsOfPass(): number {
  globalThis.gc?.();
  const profiler = new GCProfiler();
  profiler.start();
  exchange(1_000_000);
  return (profiler.stop() as { statistics: unknown[] }).statistics.length;
}

// The engine compiles anew what meets numbers for the first time, and does so beside us: on a busy machine later than
// elsewhere. What counts is what the compiled code does.
const PASSES = 12;
let collections = Number.POSITIVE_INFINITY;
for (let pass = 0; pass < PASSES && collections > 0; pass++) collections = collectionsOfPass();
const before = process.cpuUsage();
exchange(1_000_000);
const { user } = process.cpuUsage(before);
console.log(`${collections} collections`);
console.log(`${Math.round(user / 1000)} ns of user time for one frame encoded and decoded`);
