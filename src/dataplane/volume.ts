// One open volume of a single copy in its data-plane thread: joins what the core decides, the replica's files and
// the sessions of its clients. Volumes of a cluster: replica-host.ts and frontend-host.ts.

import { invariant } from '../core/invariant.ts';
import { WINDOW_ENTRY_COUNT, WINDOW_FILE_BYTES, WindowFile } from '../replication/layout/window.ts';
import { VolumeCore, type VolumePorts } from '../replication/volume-core.ts';
import { DataFile, type DataFileHost } from './data-file.ts';
import { LayerCounts } from './layer-counts.ts';
import { type NativeMemory, native } from './native.ts';
import { describeBlocks } from './nbd/block-status.ts';
import type { ServedVolume, Session } from './nbd/session.ts';
import type { FileUser, Thread } from './thread.ts';
import type { OpenVolumeMessage } from './thread-messages.ts';
import type { FrontendSample } from './thread-sample.ts';
import { VolumeLogs } from './volume-logs.ts';

export class Volume implements VolumePorts, DataFileHost, FileUser, ServedVolume {
  readonly index: number;
  readonly volumeId: string;
  readonly core: VolumeCore;
  readonly file: DataFile;
  readonly logs: VolumeLogs;
  readonly isShared = false;
  readonly sessions = new Set<Session>();
  /** Sessions of lower attachments have been ended. */
  attachmentNumber: number;
  /** Requests of sessions of this volume that have not been released. */
  inFlightCount = 0;
  /** What its clients ask for. */
  readonly counts: LayerCounts;
  readonly #thread: Thread;
  readonly #windowMemory: NativeMemory;

  constructor(thread: Thread, index: number, message: OpenVolumeMessage) {
    this.#thread = thread;
    this.index = index;
    this.volumeId = message.volumeId;
    this.attachmentNumber = message.attachmentNumber;
    this.counts = new LayerCounts(thread);
    this.file = new DataFile(thread, index, this, message);
    this.logs = new VolumeLogs(thread, index, message, () => this.core);
    this.#windowMemory = native.mapFile(message.windowFd, WINDOW_FILE_BYTES);
    try {
      this.core = this.#createCore(message);
    } catch (error) {
      // The mapping would keep the window's description, and its lock, for as long as the thread lives.
      this.logs.dispose();
      native.freeMemory(this.#windowMemory);
      throw error;
    }
  }

  #createCore(message: OpenVolumeMessage): VolumeCore {
    const window = new WindowFile(this.#windowMemory.buffer);
    // In a set of one there is no other copy to agree with: what was in flight is settled as it stands.
    window.reset(message.windowOwner);
    return new VolumeCore(this.#thread.slots, this, {
      sizeBytes: message.sizeBytes,
      epoch: message.epoch,
      openingLow: Number.parseInt(message.opening.slice(0, 8), 16) | 0,
      openingHigh: Number.parseInt(message.opening.slice(8, 16), 16) | 0,
      durability: message.durability,
      intentBits: message.hotBits,
      window,
      windowEntryCount: WINDOW_ENTRY_COUNT,
    });
  }

  /** About once a second while anything is hot. Returns false when nothing is. */
  tick(): boolean {
    this.file.tick();
    return this.core.tick();
  }

  sample(): FrontendSample {
    const { inFlightCount: inFlight, sessions } = this;
    return {
      counts: this.counts.sample(),
      network: undefined,
      inFlight,
      sessions: sessions.size,
      stalledMs: 0,
    };
  }

  /** Everything is at rest and nobody refers to it any more. */
  dispose(): void {
    invariant(this.core.isQuiet && this.inFlightCount === 0, 'only a quiet volume is closed');
    this.#thread.mappedReads.forget(this.index);
    this.logs.dispose();
    native.freeMemory(this.#windowMemory);
  }

  // ---- ServedVolume

  get sizeBytes(): number {
    return this.core.sizeBytes;
  }

  admit(request: number): void {
    this.counts.began(request);
    this.core.admit(request);
  }

  describeBlocks(request: number): number {
    return describeBlocks(this.#thread, request, this.file.fd);
  }

  // ---- DataFileHost

  requestDone(request: number, errno: number): void {
    this.file.counted(request, errno);
    this.core.requestDone(request, errno);
  }

  flushDone(errno: number): void {
    this.core.flushDone(errno);
  }

  // ---- VolumePorts

  startRead(request: number): void {
    this.file.startRead(request);
  }

  startWrite(request: number): void {
    this.file.startWrite(request);
  }

  startZero(request: number): void {
    this.file.startZero(request);
  }

  startFlush(): void {
    this.file.startFlush();
  }

  reply(request: number, errno: number): void {
    this.counts.ended(this.#thread.slots.startedMs, request, errno);
    this.#thread.sessionOf(request).reply(request, errno);
  }

  failed(what: 'flush' | 'intent', errno: number): void {
    this.#thread.tell({ type: 'volumeFailed', volumeId: this.volumeId, what, errno });
  }

  startIntentRound(durable: boolean): void {
    this.logs.startIntentRound(durable);
  }

  startGenerationMerge(): void {
    this.logs.startGenerationMerge();
  }
}
