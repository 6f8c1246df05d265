// The answer to BLOCK_STATUS, from the file system's own map of the data file. A write in flight may or may
// not show, as the protocol allows.

import { native } from '../native.ts';
import type { Thread } from '../thread.ts';
import { NBD_EIO, NBD_STATE_HOLE, NBD_STATE_ZERO } from './protocol.ts';
import { FLAG_ONE_DESCRIPTOR } from './request-check.ts';

const STATUS_DESCRIPTORS = 256;
const DESCRIPTOR_BYTES = 8;

/** The same for a volume whose copies are elsewhere: all of it may be data. */
export function describeData({ slots, memory }: Thread, request: number): number {
  const at = slots.data[request] as number;
  memory.view.setUint32(at, slots.lengthBytes[request] as number);
  memory.view.setUint32(at + 4, 0);
  slots.replyBytes[request] = DESCRIPTOR_BYTES;
  return 0;
}

/** Writes the descriptors into the request's buffer and sets its replyBytes. Returns the errno of its reply. */
export function describeBlocks(thread: Thread, request: number, dataFd: number): number {
  const { slots, memory } = thread;
  const limit = ((slots.flags[request] as number) & FLAG_ONE_DESCRIPTOR) !== 0 ? 1 : STATUS_DESCRIPTORS;
  let offset = slots.offsetBytes[request] as number;
  const end = offset + (slots.lengthBytes[request] as number);
  let at = slots.data[request] as number;
  let count = 0;
  for (; offset < end && count < limit; count++) {
    let run: ReturnType<typeof native.nextRun>;
    try {
      run = native.nextRun(dataFd, offset, end);
    } catch {
      // The map itself is read from the disk.
      return NBD_EIO;
    }
    memory.view.setUint32(at, run.endOffset - offset);
    memory.view.setUint32(at + 4, run.isData ? 0 : NBD_STATE_HOLE | NBD_STATE_ZERO);
    at += DESCRIPTOR_BYTES;
    offset = run.endOffset;
  }
  slots.replyBytes[request] = DESCRIPTOR_BYTES * count;
  return 0;
}
