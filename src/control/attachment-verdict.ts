// Judges an attachment whose device or mount was found after a restart. Taking a device away fails what an
// application has in flight, so 'over' is said only with proof: a record that has moved on, or a deletion, which
// removes the copy before the record. A record that is missing, unreadable or older than what is found proves
// nothing: the store may be lost or restored from a backup.

import type { AttachmentVerdict } from '../core/attachment-verdict.ts';
import { isHoldfastError } from '../core/errors.ts';
import type { VolumeRecord } from './records.ts';
import type { VolumeContext } from './volume-context.ts';

export async function attachmentVerdict(
  context: VolumeContext,
  volumeId: string,
  attachmentNumber: number,
): Promise<AttachmentVerdict> {
  try {
    const record = await context.records.read(volumeId);
    const mayBeHidden = context.storage.closedPools().length > 0;
    const replica = await context.storage.replica(volumeId);
    if (record === undefined) return replica === undefined && !mayBeHidden ? 'over' : 'unknown';
    const verdict = verdictOf(record, context.node, attachmentNumber);
    const promised = replica?.superblock?.promisedEpoch ?? 0;
    return record.state === 'ready' && promised > record.epoch ? 'unknown' : verdict;
  } catch (error) {
    if (!isHoldfastError(error) || error.code === 'INTERNAL') throw error;
    return 'unknown';
  }
}

function verdictOf({ state, attachment }: VolumeRecord, node: string, number: number): AttachmentVerdict {
  if (state === 'deleting' || attachment.number > number) return 'over';
  if (attachment.number < number) return 'unknown';
  if (attachment.node === node) return 'current';
  // Numbers are given once: whoever made this device bore the name that the record tells. That was this machine.
  return attachment.node === null ? 'over' : 'unknown';
}
