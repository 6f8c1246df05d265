// Kernel block devices of volumes on this node: /dev/nbdN attached over netlink, found again after a
// restart of the daemon, and always removable.

import type { JudgeAttachment } from '../core/attachment-verdict.ts';

export interface AttachedDevice {
  readonly volumeId: string;
  readonly attachmentNumber: number;
  readonly index: number;
  /** '/dev/nbdN' */
  readonly path: string;
  readonly readOnly: boolean;
  readonly sizeBytes: number;
}

export interface DeviceService {
  /** Attaches, or returns the live device of this very attachment. UNSUPPORTED with the remedy where the kernel has no nbd. */
  attach(
    volumeId: string,
    attachmentNumber: number,
    sizeBytes: number,
    readOnly: boolean,
  ): Promise<AttachedDevice>;
  /**
   * Disconnects and forgets. Unless `force`, CONFLICT when anybody still uses the device, or when nobody can judge
   * whose it is. Not attached: nothing.
   */
  detach(volumeId: string, options?: { force?: boolean }): Promise<void>;
  /** The live device, if there is one. */
  find(volumeId: string): AttachedDevice | undefined;
  list(): AttachedDevice[];
  /** Since when its device has no connection: its requests wait. undefined: connected, or no device. */
  waitingSince(volumeId: string): Date | undefined;
  /** Paths of devices of this volume that were found after a restart and belong to nobody knows whom: not served. */
  unjudged(volumeId: string): string[];
  /** Tells the kernel the new size and waits until it shows. */
  resize(volumeId: string, sizeBytes: number): Promise<void>;
  /**
   * After a restart: reconnects the devices of current attachments, removes those whose attachment is over, and
   * leaves alone what nobody can judge. Called once, before anything is served. `open` is asked for the volume of each
   * device that is to be reconnected, and reports itself where it cannot. What hangs holds nothing up: it goes on, and
   * is tried again, after this has resolved.
   */
  recover(judge: JudgeAttachment, open?: (volumeId: string) => Promise<void>): Promise<void>;
  /** Leaves every device as it is: the next daemon reconnects them. */
  release(): Promise<void>;
}
