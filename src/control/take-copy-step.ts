// One step of the way to copies on nodes that stay (next-copy-step.ts), by the operations that people use.

import { addCopy, cancelCopy, dropCopy } from './change-copies.ts';
import { movePrimary } from './move-primary.ts';
import { type CopyFacts, nextCopyStep } from './next-copy-step.ts';
import type { VolumeRecord } from './records.ts';
import type { VolumeContext } from './volume-context.ts';

/** A primary that cannot give its place now is asked again in the next round. */
const MOVE_TIMEOUT_MS = 3000;

/** Throws what the operation throws. The caller holds the lock of the volume. */
export async function takeCopyStep(
  context: VolumeContext,
  record: VolumeRecord,
  facts: CopyFacts,
): Promise<void> {
  const step = nextCopyStep(record, facts);
  switch (step?.type) {
    case undefined:
      return;
    case 'move':
      await movePrimary(context, record.id, step.toNode, MOVE_TIMEOUT_MS);
      return;
    case 'replace':
      await addCopy(context, record, step.replica);
      return;
    case 'drop':
      await dropCopy(context, record, step.replica);
      return;
    case 'cancel':
      await cancelCopy(context, record, step.newcomer, step.stays);
  }
}
