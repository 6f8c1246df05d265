// Devices found after a restart that are not served: those whose attachment is over, which go, and those whose
// attachment cannot be judged (its record is lost, unreadable, or older than the device), which stay as they are
// until the store tells, or a person detaches them by force.
//
// Removing one fails what an application has in flight: here that needs the verdict 'over', or a person.

import type { AttachmentVerdict } from '../core/attachment-verdict.ts';
import { HoldfastError } from '../core/errors.ts';
import type { Logger } from '../observe/log.ts';
import { disconnectDevice } from './nbd-kernel.ts';
import { formatIdentifier, type NbdDevice, type NbdSysfs } from './nbd-sysfs.ts';
import type { Turns } from './turns.ts';

const ASK_AGAIN_INTERVAL_MS = 10_000;

const CANNOT_JUDGE =
  'device of an unknown volume: whether its attachment is over cannot be told, so it stays as it is, its requests ' +
  'waiting; put back the store that knows it, or get rid of it: holdfast volume detach VOLUME_ID --force';

export interface LeftoverOptions {
  readonly sysfs: NbdSysfs;
  readonly turns: Turns;
  readonly log: Logger;
  /** Asked now and then about each that could not be judged. */
  readonly judge: (device: NbdDevice) => Promise<AttachmentVerdict>;
  /** Takes one that turned out to be current, which is a leftover no more. */
  readonly serve: (device: NbdDevice) => Promise<void>;
  readonly askAgainIntervalMs?: number;
}

interface Unjudged {
  readonly device: NbdDevice;
  readonly isOurs: boolean;
  readonly askAtMs: number;
}

export class LeftoverDevices {
  readonly #options: LeftoverOptions;
  /** By index. */
  readonly #over = new Map<number, NbdDevice>();
  readonly #unjudged = new Map<number, Unjudged>();

  constructor(options: LeftoverOptions) {
    this.#options = options;
  }

  addOver(device: NbdDevice): void {
    this.#over.set(device.index, device);
  }

  /** Unless it is certainly this daemon's own, it will not be removed for being over: that is its owner's business. */
  addUnjudged(device: NbdDevice, isOurs: boolean): void {
    this.#askLater(device, isOurs);
    this.#options.log.warn(
      { volumeId: device.volumeId, device: pathOf(device), attachmentNumber: device.attachmentNumber },
      CANNOT_JUDGE,
    );
  }

  /** Those of a volume that nobody can judge. */
  unjudged(volumeId: string): NbdDevice[] {
    const found = [...this.#unjudged.values()].map(({ device }) => device);
    return found.filter((device) => device.volumeId === volumeId && this.#isThere(device));
  }

  /** CONFLICT: a volume has one device, and nobody can say whether this one is still in use. */
  requireNone(volumeId: string): void {
    const [device] = this.unjudged(volumeId);
    if (device === undefined) return;
    throw new HoldfastError(
      'CONFLICT',
      `${pathOf(device)} is of attachment ${device.attachmentNumber} of volume ${volumeId}, which the store does not ` +
        'know (it may be lost, or an older copy): put back the store that knows it, or, if its data may be given up, ' +
        `remove the device with: holdfast volume detach ${volumeId} --force`,
    );
  }

  /** By a person's order. Their requests fail. */
  async removeUnjudged(volumeId: string): Promise<void> {
    for (const device of this.unjudged(volumeId)) {
      await disconnectDevice(device.index, undefined);
      this.#unjudged.delete(device.index);
      this.#options.log.warn(
        { volumeId, device: pathOf(device) },
        'removed a device of an unknown volume, by force',
      );
    }
  }

  /** Tries it once now, and again later if that fails. Never rejects. */
  async removeOver(device: NbdDevice): Promise<void> {
    this.#over.set(device.index, device);
    const { turns, log } = this.#options;
    const { volumeId, index } = device;
    await turns.run(keyOf(device), async () => {
      try {
        if (this.#isThere(device)) await disconnectDevice(index, undefined);
        this.#over.delete(index);
        log.warn({ volumeId, device: pathOf(device) }, 'removed a device whose attachment is over');
      } catch (error) {
        log.error(
          { volumeId, device: pathOf(device), error },
          'a device whose attachment is over could not be removed; it is tried again',
        );
      }
    });
  }

  /** Called often. Reports what fails by itself. */
  lookAfter(): void {
    const { turns } = this.#options;
    for (const device of this.#over.values()) {
      if (!turns.isBusy(keyOf(device))) void this.removeOver(device);
    }
    for (const unjudged of this.#unjudged.values()) {
      const isDue = unjudged.askAtMs <= performance.now();
      if (isDue && !turns.isBusy(keyOf(unjudged.device))) void this.#askAgain(unjudged);
    }
  }

  #isThere(device: NbdDevice): boolean {
    const found = this.#options.sysfs.device(device.index);
    return found !== undefined && formatIdentifier(found) === formatIdentifier(device);
  }

  #askLater(device: NbdDevice, isOurs: boolean): void {
    const { askAgainIntervalMs = ASK_AGAIN_INTERVAL_MS } = this.#options;
    this.#unjudged.set(device.index, { device, isOurs, askAtMs: performance.now() + askAgainIntervalMs });
  }

  /** In no turn of the volume: whoever serves it takes turns of its own there. */
  async #askAgain({ device, isOurs }: Unjudged): Promise<void> {
    const { turns, log, judge, serve } = this.#options;
    const { volumeId, index } = device;
    await turns.run(keyOf(device), async () => {
      try {
        if (!this.#isThere(device)) {
          this.#unjudged.delete(index);
          return;
        }
        const verdict = await judge(device);
        if (verdict === 'unknown') return this.#askLater(device, isOurs);
        this.#unjudged.delete(index);
        if (verdict === 'over') {
          if (isOurs) this.addOver(device);
          return;
        }
        await serve(device);
        log.info({ volumeId, device: pathOf(device) }, 'the volume of a device is known again');
      } catch (error) {
        log.error(
          { volumeId, device: pathOf(device), error },
          'a device could not be judged; it is tried again',
        );
        this.#askLater(device, isOurs);
      }
    });
  }
}

function pathOf({ index }: NbdDevice): string {
  return `/dev/nbd${index}`;
}

/** Of turns; no volume's id. */
function keyOf({ index }: NbdDevice): string {
  return `device ${index}`;
}
