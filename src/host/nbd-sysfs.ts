// What /sys tells about NBD devices: which there are, whom they belong to, how large they are; and the queue
// settings, which are written there. Reading an attribute of a device never waits for the device, so these
// are plain file reads, also for a device that hangs. Writing a queue setting may wait for requests in
// flight: only after the device has answered.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { errorText, HoldfastError } from '../core/errors.ts';
import { isErrno } from './run-command.ts';

const SECTOR_BYTES = 512;
const SIZE_TIMEOUT_MS = 10_000;
const SIZE_POLL_MS = 20;

/** Volume and attachment, as the kernel keeps them for a device and checks them at every reconnect. */
export interface BackendIdentifier {
  readonly volumeId: string;
  readonly attachmentNumber: number;
}

export interface NbdDevice extends BackendIdentifier {
  readonly index: number;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
}

export interface QueueSettings {
  readonly readAheadKib: number;
  /** Requests that a dead connection took with it are sent again after this, once there is a new one. */
  readonly resendAfterMs: number;
}

export function formatIdentifier({ volumeId, attachmentNumber }: BackendIdentifier): string {
  return `${volumeId}/${attachmentNumber}`;
}

/** undefined: another program's device. */
export function parseIdentifier(text: string): BackendIdentifier | undefined {
  const match = /^([0-9a-f]{32})\/(0|[1-9][0-9]{0,15})$/.exec(text.trim());
  if (match === null) return undefined;
  return { volumeId: match[1] ?? '', attachmentNumber: Number(match[2]) };
}

export class NbdSysfs {
  readonly #root: string;

  /** `root` is /sys, or a copy of it in tests. */
  constructor(root = '/sys') {
    this.#root = root;
  }

  hasModule(): boolean {
    return existsSync(join(this.#root, 'module/nbd'));
  }

  /** Above 0 the kernel looks for partitions at every connect. */
  partitionsPerDevice(): number {
    return Number(this.#read('module/nbd/parameters/max_part') ?? 0);
  }

  /** Configured devices of any Holdfast daemon, by index. */
  devices(): NbdDevice[] {
    const names = readdirSync(join(this.#root, 'block')).map((name) => /^nbd([0-9]+)$/.exec(name)?.[1]);
    const indexes = names.filter((index) => index !== undefined).map(Number);
    return indexes.sort((a, b) => a - b).flatMap((index) => this.device(index) ?? []);
  }

  device(index: number): NbdDevice | undefined {
    const identifier = parseIdentifier(this.#attribute(index, 'backend') ?? '');
    if (identifier === undefined) return undefined;
    return {
      ...identifier,
      index,
      sizeBytes: Number(this.#attribute(index, 'size') ?? 0) * SECTOR_BYTES,
      readOnly: this.#attribute(index, 'ro') === '1',
    };
  }

  /** 'major:minor' */
  deviceNumber(index: number): string | undefined {
    return this.#attribute(index, 'dev');
  }

  /** Device-mapper and md devices made of this one: 'dm-0', … */
  holders(index: number): string[] {
    return this.#list(`block/nbd${index}/holders`);
  }

  /** Loop devices and the file or device each shows. */
  loopDevices(): { name: string; backingFile: string }[] {
    return this.#list('block').flatMap((name) => {
      const backingFile = this.#read(`block/${name}/loop/backing_file`);
      return backingFile === undefined ? [] : [{ name, backingFile }];
    });
  }

  /** TIMEOUT when the kernel does not come to show this size. */
  async awaitSize(index: number, sizeBytes: number): Promise<void> {
    for (let waitedMs = 0; this.device(index)?.sizeBytes !== sizeBytes; waitedMs += SIZE_POLL_MS) {
      if (waitedMs > SIZE_TIMEOUT_MS) {
        throw new HoldfastError(
          'TIMEOUT',
          `the kernel does not show ${sizeBytes} bytes for /dev/nbd${index}`,
        );
      }
      await sleep(SIZE_POLL_MS);
    }
  }

  /** Writes what differs; returns the settings that the kernel refused, with its reason. */
  async applyQueueSettings(index: number, settings: QueueSettings): Promise<string[]> {
    const refused: string[] = [];
    for (const [name, value] of queueSettings(settings)) {
      const now = this.#attribute(index, `queue/${name}`);
      if (now === undefined || shownValue(now) === value) continue;
      try {
        await writeFile(join(this.#root, `block/nbd${index}/queue/${name}`), value);
      } catch (error) {
        refused.push(`${name}=${value}: ${errorText(error)}`);
      }
    }
    return refused;
  }

  #attribute(index: number, name: string): string | undefined {
    return this.#read(`block/nbd${index}/${name}`);
  }

  #read(path: string): string | undefined {
    try {
      return readFileSync(join(this.#root, path), 'utf8').trim();
    } catch (error) {
      // Attributes come and go with the configuration of a device.
      if (isErrno(error, 'ENOENT', 'ENODEV', 'ENXIO', 'EINVAL')) return undefined;
      throw error;
    }
  }

  #list(path: string): string[] {
    try {
      return readdirSync(join(this.#root, path)).sort();
    } catch (error) {
      if (isErrno(error, 'ENOENT')) return [];
      throw error;
    }
  }
}

/**
 * nr_requests comes after the scheduler, whose change resets it; 128 is what one connection can hold. Large
 * requests, since each costs a turn through the socket.
 */
function queueSettings({ readAheadKib, resendAfterMs }: QueueSettings): [name: string, value: string][] {
  return [
    ['scheduler', 'none'],
    ['nr_requests', '128'],
    ['max_sectors_kb', '1024'],
    ['read_ahead_kb', String(readAheadKib)],
    ['rotational', '0'],
    // The kernel counts from here, and does nothing but look: the connection itself has no time limit.
    ['io_timeout', String(resendAfterMs)],
  ];
}

/** Of a choice ('[none] mq-deadline') the one in force. */
export function shownValue(text: string): string {
  return /\[([^\]]+)\]/.exec(text)?.[1] ?? text;
}
