// Devices that keep their volume open: one hold on a volume from before its device is attached until after it
// is gone, whoever attached it (a person or CSI) and however it went. Everybody else may forget about holds.
//
// - Operations on one volume take turns, so that a hold is taken and given back exactly once.
// - A device also goes without a detach: its attachment was revoked, or somebody disconnected it. Its hold is
//   given back a little later, or used by the next attach.

import type { JudgeAttachment } from '../core/attachment-verdict.ts';
import { isHoldfastError } from '../core/errors.ts';
import type { Logger } from '../observe/log.ts';
import type { AttachedDevice, DeviceService } from './device-service.ts';
import { Turns } from './turns.ts';

/** Opens and closes volumes; counts. */
export interface Holds {
  /** With the size that the volume has now. */
  acquire(volumeId: string): Promise<{ readonly sizeBytes: number }>;
  /** One user fewer, also when it rejects: then the volume could not be closed. */
  release(volumeId: string): Promise<void>;
  /** Closes the volume unless somebody uses it. */
  closeUnused(volumeId: string): Promise<void>;
  /** An open volume is served as its record says now: for its attachment, and as large as it is. */
  follow(volumeId: string): Promise<void>;
}

const SWEEP_INTERVAL_MS = 5000;

const CANNOT_OPEN =
  'the volume of a device cannot be opened; its requests wait, and it is tried again: mend the cause, or detach it by force';

export class HeldDevices implements DeviceService {
  readonly #devices: DeviceService;
  readonly #holds: Holds;
  readonly #log: Logger;
  readonly #held = new Set<string>();
  /** No longer held, and not closed yet: closing failed, or is under way. */
  readonly #unclosed = new Set<string>();
  /** How large devices are to be, until they have been seen to be: volumes also grow while no daemon runs here. */
  readonly #grown = new Map<string, number>();
  readonly #turns = new Turns();
  readonly #sweepIntervalMs: number;
  #sweeper: NodeJS.Timeout | undefined;
  #isReleased = false;

  constructor(devices: DeviceService, holds: Holds, log: Logger, sweepIntervalMs = SWEEP_INTERVAL_MS) {
    this.#devices = devices;
    this.#holds = holds;
    this.#log = log;
    this.#sweepIntervalMs = sweepIntervalMs;
  }

  attach(
    volumeId: string,
    attachmentNumber: number,
    sizeBytes: number,
    readOnly: boolean,
  ): Promise<AttachedDevice> {
    return this.#turns.run(volumeId, async () => {
      // Held for an earlier attachment: this one may have been published by another daemon.
      if (this.#held.has(volumeId)) await this.#holds.follow(volumeId);
      else await this.#hold(volumeId);
      try {
        return await this.#devices.attach(volumeId, attachmentNumber, sizeBytes, readOnly);
      } catch (error) {
        // The reason of the failure goes first; a volume that was not closed is closed by the next sweep.
        await this.#letGo(volumeId).catch(() => undefined);
        throw error;
      }
    });
  }

  detach(volumeId: string, options?: { force?: boolean }): Promise<void> {
    return this.#turns.run(volumeId, async () => {
      await this.#devices.detach(volumeId, options);
      await this.#letGo(volumeId);
    });
  }

  find(volumeId: string): AttachedDevice | undefined {
    return this.#devices.find(volumeId);
  }

  list(): AttachedDevice[] {
    return this.#devices.list();
  }

  waitingSince(volumeId: string): Date | undefined {
    return this.#devices.waitingSince(volumeId);
  }

  unjudged(volumeId: string): string[] {
    return this.#devices.unjudged(volumeId);
  }

  resize(volumeId: string, sizeBytes: number): Promise<void> {
    return this.#turns.run(volumeId, async () => {
      // First: a file system that grows at once writes where the device had no room before.
      await this.#holds.follow(volumeId);
      await this.#devices.resize(volumeId, sizeBytes);
    });
  }

  /** Its volume has this size now, whoever grew it and on whichever node: the device follows, as soon as it can. */
  async grow(volumeId: string, sizeBytes: number): Promise<void> {
    const device = this.#devices.find(volumeId);
    if (device === undefined || device.sizeBytes >= sizeBytes) return;
    this.#grown.set(volumeId, sizeBytes);
    await this.#growDevices();
  }

  /**
   * Called once, before anything else. No volume must keep the others from being served, and a volume that cannot be
   * opened is no proof that its attachment is over: its device stays, its requests waiting, for as long as that takes.
   */
  async recover(judge: JudgeAttachment): Promise<void> {
    await this.#devices.recover(judge, (volumeId) => this.#holdCurrent(volumeId));
    await this.#sweep();
    this.#sweeper = setInterval(() => void this.#lookAfterHolds(), this.#sweepIntervalMs).unref(); // reports itself
  }

  async release(): Promise<void> {
    this.#isReleased = true;
    clearInterval(this.#sweeper);
    await this.#turns.idle();
    await this.#devices.release();
  }

  /** In a turn, since a device that could not be judged at the start is judged again while others are attached. */
  async #holdCurrent(volumeId: string): Promise<void> {
    try {
      await this.#turns.run(volumeId, async () => {
        if (!this.#isReleased) await this.#hold(volumeId);
      });
    } catch (error) {
      if (!isHoldfastError(error) || error.code === 'INTERNAL') throw error;
      this.#log.error({ volumeId, error }, CANNOT_OPEN);
    }
  }

  async #hold(volumeId: string): Promise<void> {
    if (this.#held.has(volumeId)) return;
    const { sizeBytes } = await this.#holds.acquire(volumeId);
    this.#grown.set(volumeId, sizeBytes);
    this.#held.add(volumeId);
    this.#unclosed.delete(volumeId);
  }

  async #lookAfterHolds(): Promise<void> {
    await this.#sweep();
    await this.#holdAgain();
    await this.#growDevices();
  }

  async #growDevices(): Promise<void> {
    for (const [volumeId, sizeBytes] of this.#grown) {
      if (this.#isReleased) return;
      const device = this.#devices.find(volumeId);
      if (device === undefined) continue;
      if (device.sizeBytes >= sizeBytes) {
        this.#grown.delete(volumeId);
      } else if (!this.#turns.isBusy(volumeId)) {
        try {
          await this.resize(volumeId, sizeBytes);
          this.#grown.delete(volumeId);
        } catch (error) {
          this.#log.warn(
            { volumeId, sizeBytes, error },
            'a device could not grow with its volume; it is tried again',
          );
        }
      }
    }
  }

  /** Opens the volumes of devices that could not be held at the start; the device itself is reconnected then. */
  async #holdAgain(): Promise<void> {
    for (const { volumeId } of this.#devices.list()) {
      if (this.#isReleased) return;
      if (this.#held.has(volumeId) || this.#turns.isBusy(volumeId)) continue;
      try {
        await this.#turns.run(volumeId, () => this.#hold(volumeId));
        this.#log.info({ volumeId }, 'the volume of a waiting device is open again');
      } catch (error) {
        this.#log.error({ volumeId, error }, CANNOT_OPEN);
      }
    }
  }

  async #sweep(): Promise<void> {
    for (const volumeId of [...this.#held, ...this.#unclosed]) {
      if (this.#devices.find(volumeId) !== undefined || this.#turns.isBusy(volumeId)) continue;
      try {
        await this.#turns.run(volumeId, () => this.#letGo(volumeId));
      } catch (error) {
        this.#log.error(
          { volumeId, error },
          'a volume without a device could not be closed; it is tried again',
        );
      }
    }
  }

  /** Gives the hold back, and closes what was not closed then, unless there is a device. */
  async #letGo(volumeId: string): Promise<void> {
    if (this.#devices.find(volumeId) !== undefined) return;
    this.#grown.delete(volumeId);
    if (this.#held.delete(volumeId)) {
      this.#unclosed.add(volumeId);
      await this.#holds.release(volumeId);
    } else if (this.#unclosed.has(volumeId)) {
      await this.#holds.closeUnused(volumeId);
    }
    this.#unclosed.delete(volumeId);
  }
}
