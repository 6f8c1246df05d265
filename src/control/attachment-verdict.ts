// Judges an attachment whose device or mount was found after a restart. Taking a device away fails what an
// application has in flight, so 'over' is said only with proof: a record that has moved on, or a deletion, which
// removes the copy before the record. A record that is missing, unreadable or older than what is found proves
// nothing: the store may be lost or restored from a backup. In a cluster the copies may be elsewhere: that none is here
// says nothing of a volume without a record.

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
    if (context.cluster !== undefined) return await verdictInCluster(context, volumeId, attachmentNumber);
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

async function verdictInCluster(
  { node, records, storage }: VolumeContext,
  volumeId: string,
  attachmentNumber: number,
): Promise<AttachmentVerdict> {
  // The copy before the record: what a copy promised by then the record of a sound store knows.
  const promised = (await storage.replica(volumeId))?.superblock?.promisedEpoch ?? 0;
  const record = await records.read(volumeId);
  if (record === undefined || promised > record.epoch) return 'unknown';
  return verdictOf(record, node, attachmentNumber);
}

function verdictOf({ state, attachment }: VolumeRecord, node: string, number: number): AttachmentVerdict {
  if (state === 'deleting' || attachment.number > number) return 'over';
  if (attachment.number < number) return 'unknown';
  if (attachment.node === node) return 'current';
  // Numbers are given once: whoever made this device bore the name that the record tells. That was this machine.
  return attachment.node === null ? 'over' : 'unknown';
}
