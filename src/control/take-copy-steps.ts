// The way to copies on nodes that stay (next-copy-step.ts), by the operations that people use: step by step until there
// is something to wait for.

import { addCopy, cancelCopy, dropCopy } from './change-copies.ts';
import { movePrimary } from './move-primary.ts';
import { type CopyFacts, type CopyStep, nextCopyStep } from './next-copy-step.ts';
import type { VolumeRecord } from './records.ts';
import type { VolumeContext } from './volume-context.ts';

/** A primary that cannot give its place now is asked again in the next round. */
const MOVE_TIMEOUT_MS = 3000;
/** More than any way has. */
const MAX_STEPS = 8;

/** Throws what the operation throws. The caller holds the lock of the volume. */
export async function takeCopySteps(
  context: VolumeContext,
  volumeId: string,
  facts: CopyFacts,
): Promise<CopyStep[]> {
  const taken: CopyStep[] = [];
  while (taken.length < MAX_STEPS) {
    const record = await context.records.ready(volumeId);
    const step = nextCopyStep(record, facts);
    if (step === undefined) break;
    await take(context, record, step);
    taken.push(step);
    // What has been named has to be filled first.
    if (step.type === 'replace') break;
  }
  return taken;
}

async function take(context: VolumeContext, record: VolumeRecord, step: CopyStep): Promise<void> {
  switch (step.type) {
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
