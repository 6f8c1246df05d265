// The rule that joins block devices with volumes: a device keeps its volume open, with one hold,
// from its attachment to its removal, whoever attached it (a person or CSI).

import type { Volumes } from '../../control/volumes.ts';
import { isHoldfastError } from '../../core/errors.ts';
import type { DeviceService } from '../../host/device-service.ts';
import type { Logger } from '../../observe/log.ts';

/** Finds the devices of an earlier daemon again, opening their volumes first. Before anything is served. */
export async function recoverDevices(devices: DeviceService, volumes: Volumes, log: Logger): Promise<void> {
  const held: string[] = [];
  await devices.recover(async (volumeId, attachmentNumber) => {
    if (!(await volumes.isCurrentAttachment(volumeId, attachmentNumber))) return false;
    try {
      await volumes.acquire(volumeId);
    } catch (error) {
      // What only a person can mend must not keep the other volumes from being served; anything else may be
      // over at the next start, and until then the kernel keeps the device's requests.
      if (!isHoldfastError(error, 'CORRUPT')) throw error;
      log.error({ volumeId, error }, 'the device of a damaged volume is removed');
      return false;
    }
    held.push(volumeId);
    return true;
  });
  for (const volumeId of held) {
    const device = devices.find(volumeId);
    if (device === undefined) await volumes.release(volumeId);
    else log.info({ volumeId, device: device.path }, 'device reconnected');
  }
}
