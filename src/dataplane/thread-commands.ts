// What the main thread may ask of a data-plane thread, carried out. Commands that must wait (for sessions to
// end, for a volume to become quiet) are kept in a list of unfinished business that every turn looks at.
//
// Fencing: of the kernel's sessions of a volume only the newest is read, and only after every older one has
// ended with all that it had admitted (I10, "old disk writes").

import { errorText, HoldfastError, isHoldfastError } from '../core/errors.ts';
import { native } from './native.ts';
import { KERNEL_BLOCK_BYTES, type VolumeCounters } from './node-storage.ts';
import type { ExportInfo, HandshakeHost } from './nbd/handshake.ts';
import {
  NBD_FLAG_CAN_MULTI_CONN,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_DF,
  NBD_FLAG_SEND_FAST_ZERO,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
} from './nbd/protocol.ts';
import type { Session } from './nbd/session.ts';
import { MAX_PAYLOAD_BYTES } from './thread-memory.ts';
import type { OpenVolumeMessage, ThreadCommand, ThreadCounters } from './thread-messages.ts';
import type { Thread } from './thread.ts';
import { Volume } from './volume.ts';

const EXPORT_FLAGS =
  NBD_FLAG_HAS_FLAGS |
  NBD_FLAG_SEND_FLUSH |
  NBD_FLAG_SEND_FUA |
  NBD_FLAG_SEND_TRIM |
  NBD_FLAG_SEND_WRITE_ZEROES |
  NBD_FLAG_SEND_FAST_ZERO |
  NBD_FLAG_SEND_CACHE |
  NBD_FLAG_SEND_DF |
  NBD_FLAG_CAN_MULTI_CONN;

type Value = VolumeCounters | ThreadCounters | undefined;
type Answer = (outcome: { value: Value } | { error: unknown }) => void;

/** One volume with what its clients hold open. */
interface Served {
  readonly volume: Volume;
  /** Oldest first; only the last one may be read. */
  readonly kernelSessions: Session[];
  readonly exportIds: Set<number>;
  isClosing: boolean;
}

interface Export {
  readonly fd: number;
  readonly served: Served;
  readonly sessions: Set<Session>;
}

export class ThreadCommands {
  readonly #thread: Thread;
  readonly #served = new Map<string, Served>();
  readonly #exports = new Map<number, Export>();
  /** Each returns true when it is done. */
  #business: (() => boolean)[] = [];

  constructor(thread: Thread) {
    this.#thread = thread;
  }

  /** True while something is unfinished. */
  turn(): boolean {
    this.#business = this.#business.filter((step) => !step());
    return this.#business.length > 0;
  }

  handle(command: ThreadCommand, answer: Answer): void {
    try {
      this.#handle(command, answer);
    } catch (error) {
      answer({ error });
    }
  }

  #handle(command: ThreadCommand, answer: Answer): void {
    switch (command.type) {
      case 'open':
        this.#open(command.open);
        answer({ value: undefined });
        return;
      case 'close':
        this.#close(command.volumeId, answer);
        return;
      case 'adopt':
        this.#adopt(command.volumeId, command.epoch, command.attachmentNumber, answer);
        return;
      case 'grow':
        this.#grow(command.volumeId, command.sizeBytes, answer);
        return;
      case 'listen':
        this.#listen(command.exportId, command.fd, command.volumeId, command.exportName);
        answer({ value: undefined });
        return;
      case 'unlisten':
        this.#unlisten(command.exportId, answer);
        return;
      case 'connect':
        this.#connect(command.volumeId, command.fd, command.readOnly);
        answer({ value: undefined });
        return;
      case 'disconnect':
        this.#disconnect(this.#find(command.volumeId), answer);
        return;
      case 'fail':
        this.#find(command.volumeId).volume.core.fail();
        this.#thread.tell({
          type: 'volumeFailed',
          volumeId: command.volumeId,
          what: 'superblock',
          errno: command.errno,
        });
        answer({ value: undefined });
        return;
      case 'counters':
        answer({ value: countersOf(this.#find(command.volumeId).volume) });
        return;
      case 'threadCounters':
        answer({ value: this.#thread.counters() });
        return;
      case 'stop':
        this.#thread.stop();
        answer({ value: undefined });
        return;
    }
  }

  #open(message: OpenVolumeMessage): void {
    if (this.#thread.faults.stuckThread) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
    const volumes = this.#thread.volumes;
    const free = volumes.indexOf(undefined);
    const index = free === -1 ? volumes.length : free;
    const volume = new Volume(this.#thread, index, message);
    volumes[index] = volume;
    this.#served.set(message.volumeId, {
      volume,
      kernelSessions: [],
      exportIds: new Set(),
      isClosing: false,
    });
    this.#thread.wakeForTime();
  }

  #close(volumeId: string, answer: Answer): void {
    const served = this.#find(volumeId);
    served.isClosing = true;
    for (const exportId of served.exportIds) this.#unlisten(exportId, () => undefined);
    for (const session of served.volume.sessions) session.close();
    this.#business.push(() => {
      const { volume } = served;
      if (volume.sessions.size > 0 || volume.inFlightCount > 0 || served.exportIds.size > 0) return false;
      if (!volume.core.coolAll() || !volume.core.isQuiet) return false;
      const counters = countersOf(volume);
      volume.dispose();
      this.#thread.volumes[volume.index] = undefined;
      this.#served.delete(volumeId);
      answer({ value: counters });
      return true;
    });
  }

  #adopt(volumeId: string, epoch: number, attachmentNumber: number, answer: Answer): void {
    const served = this.#find(volumeId);
    const { volume } = served;
    if (epoch > volume.core.epoch) volume.core.epoch = epoch;
    if (attachmentNumber <= volume.attachmentNumber) {
      answer({ value: undefined });
      return;
    }
    volume.attachmentNumber = attachmentNumber;
    this.#disconnect(served, answer);
  }

  #grow(volumeId: string, sizeBytes: number, answer: Answer): void {
    const { volume } = this.#find(volumeId);
    volume.core.grow(sizeBytes);
    answer({ value: undefined });
  }

  // ---- exports

  #listen(exportId: number, fd: number, volumeId: string, exportName: string): void {
    const served = this.#find(volumeId);
    // The caller still owns the descriptor when this throws.
    if (served.isClosing)
      throw new HoldfastError('CONFLICT', `volume ${volumeId} is being closed: try again`);
    const entry: Export = { fd, served, sessions: new Set() };
    this.#exports.set(exportId, entry);
    served.exportIds.add(exportId);
    const info = (): ExportInfo => ({
      name: exportName,
      sizeBytes: served.volume.core.sizeBytes,
      transmissionFlags: EXPORT_FLAGS,
      minimumBlockBytes: 1,
      preferredBlockBytes: KERNEL_BLOCK_BYTES,
      maximumPayloadBytes: MAX_PAYLOAD_BYTES,
      description: `holdfast volume ${exportName}`,
    });
    const host: HandshakeHost = {
      find: (name) => (name === exportName ? info() : undefined),
      names: () => [exportName],
    };
    this.#thread.listen(exportId, {
      fd,
      accepted: (accepted) => {
        this.#accepted(entry, accepted, host);
      },
      ended: () => {
        native.close(fd);
        this.#exports.delete(exportId);
        served.exportIds.delete(exportId);
      },
    });
  }

  #accepted(entry: Export, fd: number, host: HandshakeHost): void {
    const { served } = entry;
    let session: Session | undefined;
    if (!served.isClosing) {
      session = this.#thread.addSession(fd, {
        readOnly: false,
        host,
        resolve: () => (served.isClosing ? undefined : served.volume),
        onClosed: () => {
          if (session !== undefined) entry.sessions.delete(session);
        },
      });
    }
    if (session === undefined) {
      native.close(fd);
      this.#thread.tell({
        type: 'refusedSession',
        reason: served.isClosing ? 'closing' : 'too many connections',
      });
      return;
    }
    entry.sessions.add(session);
    session.start(false);
  }

  #unlisten(exportId: number, answer: Answer): void {
    const entry = this.#exports.get(exportId);
    if (entry === undefined) {
      answer({ value: undefined });
      return;
    }
    native.shutdownSocket(entry.fd);
    for (const session of entry.sessions) session.close();
    this.#business.push(() => {
      for (const session of entry.sessions) session.close();
      if (this.#exports.has(exportId) || entry.sessions.size > 0) return false;
      answer({ value: undefined });
      return true;
    });
  }

  // ---- the kernel's sessions

  #connect(volumeId: string, fd: number, readOnly: boolean): void {
    const served = this.#served.get(volumeId);
    if (served === undefined) {
      native.close(fd);
      throw new HoldfastError('NOT_FOUND', `volume ${volumeId} is not open in this thread`);
    }
    const { kernelSessions } = served;
    const older = [...kernelSessions];
    const session: Session | undefined = served.isClosing
      ? undefined
      : this.#thread.addSession(fd, {
          readOnly,
          volume: served.volume,
          onClosed: () => {
            if (session !== undefined) this.#kernelSessionClosed(served, session);
          },
        });
    if (session === undefined) {
      native.close(fd);
      throw new HoldfastError(
        'LIMIT',
        'the data-plane thread has no room for another session; detach something first',
      );
    }
    kernelSessions.push(session);
    session.start(older.length > 0);
    for (const one of older) one.close();
  }

  #kernelSessionClosed(served: Served, session: Session): void {
    const { kernelSessions } = served;
    kernelSessions.splice(kernelSessions.indexOf(session), 1);
    if (kernelSessions.length === 1) kernelSessions[0]?.resume();
    if (kernelSessions.length === 0) {
      this.#thread.tell({ type: 'kernelSessionEnded', volumeId: served.volume.volumeId });
    }
  }

  #disconnect(served: Served, answer: Answer): void {
    const ending = [...served.kernelSessions];
    for (const session of ending) session.close();
    this.#business.push(() => {
      if (ending.some((session) => served.kernelSessions.includes(session))) return false;
      answer({ value: undefined });
      return true;
    });
  }

  #find(volumeId: string): Served {
    const served = this.#served.get(volumeId);
    if (served === undefined)
      throw new HoldfastError('NOT_FOUND', `volume ${volumeId} is not open in this thread`);
    return served;
  }
}

function countersOf(volume: Volume): VolumeCounters {
  const count = (index: number): number => volume.file.counters[index] ?? 0;
  return {
    reads: count(0),
    readBytes: count(1),
    writes: count(2),
    writeBytes: count(3),
    flushes: count(4),
    trims: count(5),
    errors: count(6),
    inFlight: volume.inFlightCount,
    sessions: volume.sessions.size,
    hotExtents: volume.core.extents.hotCount,
    hasFailed: volume.core.hasFailed,
    latencyBuckets: [...volume.latency.buckets],
  };
}

/** An error as it crosses to the main thread. */
export function describeError(error: unknown): { code: string; message: string } {
  return { code: isHoldfastError(error) ? error.code : 'INTERNAL', message: errorText(error) };
}
