// Volumes of this node as /dev/nbdN. The kernel keeps a device and its waiting requests while no daemon is
// there; the next daemon finds it by its backend identifier `volumeId/attachmentNumber` and gives it a new
// connection: the application sees a pause.
//
// - Only the device of a current attachment is reconnected. One whose attachment is over is removed, and its
//   requests fail; one that cannot be judged (its record is lost or older than the device) is left as it is.
// - The kernel takes a new connection only in place of a dead one, so the older one always ends first.
// - Nothing here waits for a device without a deadline, and nothing on libuv's pool touches one: a hung
//   device costs its own operation and no other. Shutting its connection down always frees it.
// - Operations on one volume take turns; only they change its entry.
// - After a restart no device waits for another one's volume, and whoever called waits for none that hangs.

import { setTimeout as sleep } from 'node:timers/promises';
import type { JudgeAttachment } from '../core/attachment-verdict.ts';
import { HoldfastError, isHoldfastError } from '../core/errors.ts';
import { native } from '../dataplane/native.ts';
import type { NodeStorage } from '../dataplane/node-storage.ts';
import type { Logger } from '../observe/log.ts';
import { DeviceRecords } from './device-records.ts';
import type { AttachedDevice, DeviceService } from './device-service.ts';
import { hiddenUsers, shownUsers } from './device-users.ts';
import { inParallel } from './in-parallel.ts';
import { LeftoverDevices } from './leftover-devices.ts';
import {
  connectDevice,
  disconnectDevice,
  ensureModule,
  offerConnection,
  probeDevice,
  resizeDevice,
} from './nbd-kernel.ts';
import { formatIdentifier, type NbdDevice, NbdSysfs, type QueueSettings } from './nbd-sysfs.ts';
import { Turns } from './turns.ts';

const WATCH_INTERVAL_MS = 1000;
const MAX_RETRY_DELAY_MS = 10_000;
/** To open a volume and to prove its device's connection takes milliseconds, unless something hangs. */
const RECOVERY = { limit: 8, patienceMs: 1000 } as const;
/** After a restart; what is not settled then goes on beside everything else. */
const RECOVERY_PATIENCE_MS = 5000;
/** After umount, the kernel may let go of a device a moment later; and udev looks at what changes. */
const USE_RETRY_DELAYS_MS = [100, 300, 1000] as const;

const DEFAULT_QUEUE: QueueSettings = {
  // Databases read at random; who reads in order asks for more.
  readAheadKib: 128,
  // What a killed daemon left unanswered waits so long at most after the next one is there. Less would cost more of the kernel's
  // log: a line per waiting request and interval while a volume pauses.
  resendAfterMs: 1000,
};

export interface NbdDevicesOptions {
  readonly storage: Pick<NodeStorage, 'connectKernel' | 'disconnectKernel'>;
  readonly log: Logger;
  /** Of this daemon alone, on a disk that outlives it. */
  readonly recordDirectory: string;
  readonly queue?: Partial<QueueSettings>;
}

interface Entry {
  readonly device: AttachedDevice;
  /** A copy of the kernel's end of the connection: tells whether it lives, and can end it. */
  readonly connectionFd: number | undefined;
}

export class NbdDevices implements DeviceService {
  readonly #storage: NbdDevicesOptions['storage'];
  readonly #log: Logger;
  readonly #records: DeviceRecords;
  readonly #queue: QueueSettings;
  readonly #sysfs = new NbdSysfs();
  readonly #entries = new Map<string, Entry>();
  readonly #turns = new Turns();
  readonly #leftovers: LeftoverDevices;
  #judge: JudgeAttachment = async () => 'unknown';
  #open: (volumeId: string) => Promise<void> = async () => undefined;
  /** Volumes that are being opened for the device that was found: the connection comes after that. */
  readonly #opening = new Set<string>();
  /** By volume, since when its device has no connection. */
  readonly #waitingSince = new Map<string, Date>();
  /** By volume, when a failed repair is tried again and how long was waited for it. */
  readonly #retries = new Map<string, { atMs: number; delayMs: number }>();
  #watch: NodeJS.Timeout | undefined;
  #hasWarnedOfPartitions = false;
  #isReleased = false;

  constructor({ storage, log, recordDirectory, queue }: NbdDevicesOptions) {
    this.#storage = storage;
    this.#log = log;
    this.#records = new DeviceRecords(recordDirectory);
    this.#queue = { ...DEFAULT_QUEUE, ...queue };
    this.#leftovers = new LeftoverDevices({
      sysfs: this.#sysfs,
      turns: this.#turns,
      log,
      judge: ({ volumeId, attachmentNumber }) => this.#judge(volumeId, attachmentNumber),
      serve: async (device) => await this.#serve(device),
    });
  }

  attach(
    volumeId: string,
    attachmentNumber: number,
    sizeBytes: number,
    readOnly: boolean,
  ): Promise<AttachedDevice> {
    return this.#turns.run(volumeId, async () => {
      const standing = await this.#settledEntry(volumeId);
      if (standing === undefined) {
        return await this.#connect({ volumeId, attachmentNumber, sizeBytes, readOnly });
      }
      const { device } = standing;
      if (device.attachmentNumber !== attachmentNumber) {
        throw new HoldfastError(
          'CONFLICT',
          `${device.path} still serves attachment ${device.attachmentNumber} of volume ${volumeId}: detach it first`,
        );
      }
      if (!isConnected(standing)) await this.#reconnect(device);
      return device;
    });
  }

  detach(volumeId: string, { force = false }: { force?: boolean } = {}): Promise<void> {
    return this.#turns.run(volumeId, async () => {
      if (!force) this.#leftovers.requireNone(volumeId);
      await this.#removeUnjudged(volumeId);
      const entry = await this.#settledEntry(volumeId);
      if (entry === undefined) return;
      if (!force) await this.#requireUnused(entry.device);
      await this.#remove(entry);
      this.#log.info({ volumeId, device: entry.device.path, force }, 'device detached');
    });
  }

  find(volumeId: string): AttachedDevice | undefined {
    const device = this.#entries.get(volumeId)?.device;
    return device !== undefined && this.#isConfigured(device) ? device : undefined;
  }

  list(): AttachedDevice[] {
    return [...this.#entries.keys()].flatMap((volumeId) => this.find(volumeId) ?? []);
  }

  waitingSince(volumeId: string): Date | undefined {
    return this.find(volumeId) === undefined ? undefined : this.#waitingSince.get(volumeId);
  }

  unjudged(volumeId: string): string[] {
    return this.#leftovers.unjudged(volumeId).map(({ index }) => `/dev/nbd${index}`);
  }

  resize(volumeId: string, sizeBytes: number): Promise<void> {
    return this.#turns.run(volumeId, async () => {
      const entry = await this.#settledEntry(volumeId);
      if (entry === undefined) throw new HoldfastError('NOT_FOUND', `volume ${volumeId} has no device here`);
      const { device } = entry;
      if (sizeBytes < device.sizeBytes) {
        throw new HoldfastError(
          'OUT_OF_RANGE',
          `${device.path} has ${device.sizeBytes} bytes and cannot shrink to ${sizeBytes}`,
        );
      }
      if (sizeBytes === device.sizeBytes) return;
      // A change of size waits for requests in flight: they must be getting answers.
      await probeDevice(device.index);
      await resizeDevice(device.index, formatIdentifier(device), sizeBytes);
      await this.#sysfs.awaitSize(device.index, sizeBytes);
      this.#entries.set(volumeId, { ...entry, device: { ...device, sizeBytes } });
      this.#log.info({ volumeId, device: device.path, sizeBytes }, 'device resized');
    });
  }

  async recover(judge: JudgeAttachment, open = this.#open): Promise<void> {
    this.#judge = judge;
    this.#open = open;
    if (this.#sysfs.hasModule()) await this.#settleFound();
    const remaining = new Set(
      this.#sysfs.hasModule() ? this.#sysfs.devices().map(({ volumeId }) => volumeId) : [],
    );
    for (const volumeId of await this.#records.list()) {
      if (!remaining.has(volumeId)) await this.#records.remove(volumeId);
    }
    this.#watch = setInterval(() => this.#lookAfterDevices(), WATCH_INTERVAL_MS).unref();
  }

  async release(): Promise<void> {
    this.#isReleased = true;
    clearInterval(this.#watch);
    await this.#turns.idle();
    // The kernel has its own reference: its connection lasts until the data plane ends it.
    for (const { connectionFd } of this.#entries.values()) {
      if (connectionFd !== undefined) native.close(connectionFd);
    }
    this.#entries.clear();
  }

  // ---- connecting

  async #connect(wanted: Omit<AttachedDevice, 'index' | 'path'>): Promise<AttachedDevice> {
    const { volumeId, attachmentNumber, sizeBytes, readOnly } = wanted;
    await this.#requireKernel();
    this.#leftovers.requireNone(volumeId);
    this.#requireNoRemains(wanted);
    await this.#records.add(volumeId);
    const connectionFd = await this.#storage.connectKernel(volumeId, attachmentNumber, readOnly);
    let entry: Entry | undefined;
    try {
      const identifier = formatIdentifier(wanted);
      const index = await connectDevice({ identifier, sizeBytes, readOnly, socketFd: connectionFd });
      const device = { ...wanted, index, path: `/dev/nbd${index}` };
      entry = { device, connectionFd };
      this.#entries.set(volumeId, entry);
      await this.#sysfs.awaitSize(device.index, sizeBytes);
      await probeDevice(device.index);
      await this.#applyQueueSettings(device);
      this.#log.info(
        { volumeId, device: device.path, attachmentNumber, sizeBytes, readOnly },
        'device attached',
      );
      return device;
    } catch (error) {
      await this.#undoConnect(volumeId, connectionFd, entry);
      throw error;
    }
  }

  /** A device that will not go keeps its entry: detach finds it. The record stays until the next start. */
  async #undoConnect(volumeId: string, connectionFd: number, entry: Entry | undefined): Promise<void> {
    try {
      if (entry !== undefined) return await this.#remove(entry);
      native.shutdownSocket(connectionFd);
      native.close(connectionFd);
      await this.#storage.disconnectKernel(volumeId);
    } catch (error) {
      this.#log.error(
        { volumeId, error },
        'a device that failed to attach could not be removed; detach it again',
      );
    }
  }

  async #requireKernel(): Promise<void> {
    await ensureModule(this.#sysfs);
    if (this.#hasWarnedOfPartitions || this.#sysfs.partitionsPerDevice() === 0) return;
    this.#hasWarnedOfPartitions = true;
    this.#log.warn(
      'the kernel looks for partitions on every device attached; load module nbd with max_part=0',
    );
  }

  /** A disconnected device that is still open keeps its identifier, and a restart would take it for this one. */
  #requireNoRemains(wanted: { volumeId: string; attachmentNumber: number }): void {
    const identifier = formatIdentifier(wanted);
    const remains = this.#sysfs.devices().find((device) => formatIdentifier(device) === identifier);
    if (remains === undefined) return;
    throw new HoldfastError(
      'CONFLICT',
      `/dev/nbd${remains.index} was detached from volume ${wanted.volumeId} and is still open: ` +
        'unmount it, or publish the volume again',
    );
  }

  /** A new connection in place of a dead one, proven by a read. */
  async #reconnect(device: AttachedDevice): Promise<void> {
    const { volumeId, attachmentNumber, readOnly, index, path } = device;
    const began = performance.now();
    const old = this.#entries.get(volumeId)?.connectionFd;
    const connectionFd = await this.#storage.connectKernel(volumeId, attachmentNumber, readOnly);
    this.#entries.set(volumeId, { device, connectionFd });
    if (old !== undefined) {
      native.shutdownSocket(old);
      native.close(old);
    }
    try {
      await offerConnection(index, formatIdentifier(device), connectionFd);
    } catch (error) {
      // Not taken, or taken and silent: the next attempt must find no connection.
      native.shutdownSocket(connectionFd);
      throw error;
    }
    await this.#applyQueueSettings(device);
    this.#waitingSince.delete(volumeId);
    const tookMs = Math.round(performance.now() - began);
    this.#log.info({ volumeId, device: path, attachmentNumber, tookMs }, 'device reconnected');
  }

  async #applyQueueSettings({ volumeId, index, path }: AttachedDevice): Promise<void> {
    const refused = await this.#sysfs.applyQueueSettings(index, this.#queue);
    if (refused.length > 0)
      this.#log.warn({ volumeId, device: path, refused }, 'queue settings were refused');
  }

  // ---- removing

  /** When it resolves nothing of this attachment reaches the volume any more, and it is forgotten. */
  async #remove(entry: Entry): Promise<void> {
    await disconnectDevice(entry.device.index, entry.connectionFd);
    await this.#forget(entry);
  }

  async #forget({ device: { volumeId }, connectionFd }: Entry): Promise<void> {
    this.#entries.delete(volumeId);
    this.#retries.delete(volumeId);
    this.#waitingSince.delete(volumeId);
    if (connectionFd !== undefined) native.close(connectionFd);
    await this.#storage.disconnectKernel(volumeId);
    await this.#records.remove(volumeId);
  }

  async #removeUnjudged(volumeId: string): Promise<void> {
    if (this.#leftovers.unjudged(volumeId).length === 0) return;
    await this.#leftovers.removeUnjudged(volumeId);
    await this.#records.remove(volumeId);
  }

  /**
   * CONFLICT while anybody has it open or mounted, anywhere on this machine. A file system leaves the mount tables
   * before its last writes are on the device.
   */
  async #requireUnused({ volumeId, index, path }: AttachedDevice): Promise<void> {
    let users = shownUsers(index, this.#sysfs);
    if (users.length === 0) {
      const search = (): Promise<string[]> => hiddenUsers(path, this.#sysfs.deviceNumber(index) ?? '');
      users = await search();
      for (const delayMs of USE_RETRY_DELAYS_MS) {
        if (users.length === 0) return;
        await sleep(delayMs);
        users = await search();
      }
      if (users.length === 0) return;
    }
    throw new HoldfastError(
      'CONFLICT',
      `${path} of volume ${volumeId} is in use: ${users.join(', ')}; end that first, or detach it by force: ` +
        'its users get I/O errors then',
      { details: { users } },
    );
  }

  // ---- after a restart, and while running

  /** All devices found, those of one attachment together; returns before those that hang are settled. */
  async #settleFound(): Promise<void> {
    const records = await this.#records.list();
    const attachments = Map.groupBy(this.#sysfs.devices(), formatIdentifier);
    const waiting = new Set(attachments.keys());
    const settled = inParallel(attachments, RECOVERY, async ([identifier, [device, ...others]]) => {
      if (device === undefined || this.#isReleased) return;
      const verdict = await this.#judge(device.volumeId, device.attachmentNumber);
      const isOurs = records.has(device.volumeId);
      for (const found of [device, ...others]) {
        if (verdict === 'current') await this.#takeOver(found);
        else if (verdict === 'unknown') this.#leftovers.addUnjudged(found, isOurs);
        else if (isOurs) await this.#leftovers.removeOver(found);
      }
      if (verdict === 'current') await this.#openAndRepair(device.volumeId);
      waiting.delete(identifier);
    });
    const isLong = sleep(RECOVERY_PATIENCE_MS, 'long', { ref: false });
    if ((await Promise.race([settled, isLong])) !== 'long') return;
    void settled.then(() => this.#log.info('every device found is settled now')); // a defect stops the process
    this.#log.warn({ attachments: [...waiting] }, 'some devices take long; the others are served meanwhile');
  }

  /** Of two devices of one attachment (a connect that outlived its deadline) the one in use is kept. */
  #takeOver(found: NbdDevice): Promise<void> {
    return this.#turns.run(found.volumeId, async () => {
      const rival = this.#entries.get(found.volumeId)?.device;
      const isNewer = rival !== undefined && rival.attachmentNumber > found.attachmentNumber;
      if (isNewer || (rival !== undefined && shownUsers(found.index, this.#sysfs).length === 0)) {
        this.#leftovers.addOver(found);
        return;
      }
      if (rival !== undefined) this.#leftovers.addOver(rival);
      const device = { ...found, path: `/dev/nbd${found.index}` };
      this.#entries.set(found.volumeId, { device, connectionFd: undefined });
      this.#waitingSince.set(found.volumeId, new Date());
    });
  }

  /** A leftover that turned out to be current. */
  async #serve(found: NbdDevice): Promise<void> {
    await this.#takeOver(found);
    await this.#openAndRepair(found.volumeId);
  }

  /** In no turn: whoever opens the volume takes turns of its own, in which it comes here. */
  async #openAndRepair(volumeId: string): Promise<void> {
    this.#opening.add(volumeId);
    try {
      await this.#open(volumeId);
    } finally {
      this.#opening.delete(volumeId);
    }
    await this.#repair(volumeId);
  }

  #lookAfterDevices(): void {
    this.#leftovers.lookAfter();
    for (const [volumeId, entry] of this.#entries) {
      if (isConnected(entry)) continue;
      if (!this.#waitingSince.has(volumeId)) this.#waitingSince.set(volumeId, new Date());
      const isDue = (this.#retries.get(volumeId)?.atMs ?? 0) <= performance.now();
      if (!isDue || this.#opening.has(volumeId) || this.#turns.isBusy(volumeId)) continue;
      void this.#repair(volumeId); // reports itself
    }
  }

  /** Reconnects a device without a connection, or removes it when its attachment is over. Never rejects. */
  async #repair(volumeId: string): Promise<void> {
    await this.#turns.run(volumeId, async () => {
      try {
        const entry = await this.#settledEntry(volumeId);
        if (this.#isReleased || entry === undefined || isConnected(entry)) return;
        await this.#reconnectOrRemove(entry);
        this.#retries.delete(volumeId);
      } catch (error) {
        const before = this.#retries.get(volumeId)?.delayMs ?? WATCH_INTERVAL_MS;
        const delayMs = Math.min(2 * before, MAX_RETRY_DELAY_MS);
        this.#retries.set(volumeId, { atMs: performance.now() + delayMs, delayMs });
        this.#log.error(
          { volumeId, delayMs, error },
          'a device has no connection; its requests wait, and it is tried again',
        );
      }
    });
  }

  async #reconnectOrRemove(entry: Entry): Promise<void> {
    const { device } = entry;
    const { volumeId, attachmentNumber } = device;
    try {
      await this.#reconnect(device);
    } catch (error) {
      if (!isHoldfastError(error, 'CONFLICT')) throw error;
      // Not served here any more: the record may say that the volume was taken from this node.
      const isOver =
        Number(error.details['current']) > attachmentNumber ||
        (await this.#judge(volumeId, attachmentNumber)) === 'over';
      if (!isOver) throw error;
      await this.#remove(entry);
      this.#log.warn({ volumeId, device: device.path }, 'removed a device whose attachment is over');
    }
  }

  /** In a turn: the entry, unless somebody else has disconnected the device, which is forgotten then. */
  async #settledEntry(volumeId: string): Promise<Entry | undefined> {
    const entry = this.#entries.get(volumeId);
    if (entry === undefined || this.#isConfigured(entry.device)) return entry;
    await this.#forget(entry);
    this.#log.warn({ volumeId, device: entry.device.path }, 'a device was disconnected by somebody else');
    return undefined;
  }

  /** Whether the kernel still has it under this index. */
  #isConfigured(device: { index: number; volumeId: string; attachmentNumber: number }): boolean {
    const found = this.#sysfs.device(device.index);
    return found !== undefined && formatIdentifier(found) === formatIdentifier(device);
  }
}

function isConnected({ connectionFd }: Entry): boolean {
  return connectionFd !== undefined && native.isSocketConnected(connectionFd);
}
