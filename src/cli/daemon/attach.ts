// Attaching by hand: the volume is published to this node, then becomes a block device. What a failed attach
// published is unpublished again. Interrupted anywhere, repeating the command goes on.

import type { Volumes } from '../../control/volumes.ts';
import type { AttachedDevice, DeviceService } from '../../host/device-service.ts';

export interface AttachContext {
  readonly node: string;
  readonly volumes: Volumes;
  readonly devices: DeviceService;
}

export async function attachVolume(
  { node, volumes, devices }: AttachContext,
  nameOrId: string,
  readOnly: boolean,
): Promise<AttachedDevice> {
  const before = await volumes.find(nameOrId);
  let record = await volumes.publishByHand(before.id, node, readOnly);
  const live = devices.find(record.id);
  if (live?.attachmentNumber === record.attachment.number) return live;
  try {
    // Published before, but its device is gone: sessions of the lost one must never count again.
    if (before.attachment.node === node) record = await volumes.renewAttachment(record.id, node);
    return await devices.attach(record.id, record.attachment.number, record.sizeBytes, readOnly);
  } catch (error) {
    // The reason of the failure goes first; what stays published is taken up by the next attempt.
    if (before.attachment.node === null) await volumes.unpublish(record.id, node).catch(() => undefined);
    throw error;
  }
}

export async function detachVolume(
  { volumes, devices }: AttachContext,
  nameOrId: string,
  force: boolean,
): Promise<void> {
  const id = await idOf({ volumes, devices }, nameOrId);
  await devices.detach(id, { force });
  await volumes.unpublishByHand(id, force);
}

/** A device may have survived the record of its volume: its id, which the log tells, is enough to get rid of it. */
async function idOf(
  { volumes, devices }: Pick<AttachContext, 'volumes' | 'devices'>,
  nameOrId: string,
): Promise<string> {
  if (devices.unjudged(nameOrId).length > 0) return nameOrId;
  return (await volumes.find(nameOrId)).id;
}
