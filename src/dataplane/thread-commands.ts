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
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
} from './nbd/protocol.ts';
import type { Session } from './nbd/session.ts';
import { CLUSTER_COMMANDS, ClusterCommands } from './cluster/cluster-commands.ts';
import type { FrontendHost } from './cluster/frontend-host.ts';
import type { ClusterCommand } from './cluster/messages.ts';
import type { ReplicaHost } from './cluster/replica-host.ts';
import { MAX_PAYLOAD_BYTES } from './thread-memory.ts';
import type { ThreadSample, VolumeThreadSample } from './thread-sample.ts';
import type { AnswerValue, ThreadCommand } from './thread-messages.ts';
import type { Thread } from './thread.ts';

const EXPORT_FLAGS =
  NBD_FLAG_HAS_FLAGS |
  NBD_FLAG_SEND_FLUSH |
  NBD_FLAG_SEND_FUA |
  NBD_FLAG_SEND_TRIM |
  NBD_FLAG_SEND_WRITE_ZEROES |
  NBD_FLAG_SEND_CACHE |
  NBD_FLAG_SEND_DF |
  NBD_FLAG_CAN_MULTI_CONN;

export type Answer = (outcome: { value: AnswerValue } | { error: unknown }) => void;

/** One volume with what its clients hold open. */
export interface Served {
  readonly volume: FrontendHost;
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

  readonly #cluster: ClusterCommands;

  constructor(thread: Thread) {
    this.#thread = thread;
    this.#cluster = new ClusterCommands(thread, this);
  }

  /** True while something is unfinished. */
  turn(): boolean {
    const steps = this.#business;
    // A step may begin another one.
    this.#business = [];
    for (const step of steps) if (!step()) this.#business.push(step);
    return this.#business.length > 0;
  }

  handle(command: ThreadCommand | ClusterCommand, answer: Answer): void {
    try {
      if (isClusterCommand(command)) this.#cluster.handle(command, answer);
      else this.#handle(command, answer);
    } catch (error) {
      // What is none of ours leaves a part half changed: the thread, and with it the process, ends.
      if (!isHoldfastError(error)) throw error;
      answer({ error });
    }
  }

  #handle(command: ThreadCommand, answer: Answer): void {
    switch (command.type) {
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
        this.#disconnect(this.find(command.volumeId), answer);
        return;
      case 'counters':
        answer({ value: countersOf(this.find(command.volumeId).volume) });
        return;
      case 'threadCounters':
        answer({ value: this.#thread.counters() });
        return;
      case 'sample':
        answer({ value: this.#sample() });
        return;
      case 'stop':
        this.#thread.stop();
        answer({ value: undefined });
        return;
    }
  }

  #sample(): ThreadSample {
    const replicas = this.#cluster.replicas;
    const ids = new Set([...this.#served.keys(), ...replicas.keys()]);
    const volumes = [...ids].map((volumeId) =>
      sampleOf(volumeId, this.#served.get(volumeId)?.volume, replicas.get(volumeId)),
    );
    return { counters: this.#thread.counters(), volumes };
  }

  /** Clients may be served from here on. */
  serve(volumeId: string, volume: FrontendHost): void {
    const served = { volume, kernelSessions: [], exportIds: new Set<number>(), isClosing: false };
    this.#served.set(volumeId, served);
  }

  /** Ends the sessions and listeners; nobody is answered any more. `isOver` is true once, when that is done. */
  endClients(volumeId: string): { isOver(): boolean } {
    const served = this.find(volumeId);
    const { volume, exportIds } = served;
    served.isClosing = true;
    for (const exportId of exportIds) this.#unlisten(exportId, () => undefined);
    for (const session of volume.sessions) session.close();
    return {
      isOver: () => {
        if (volume.sessions.size > 0 || volume.inFlightCount > 0 || exportIds.size > 0) return false;
        this.#served.delete(volumeId);
        return true;
      },
    };
  }

  /** What takes several turns: asked in each until it returns true. */
  begin(step: () => boolean): void {
    this.#business.push(step);
  }

  // ---- exports

  #listen(exportId: number, fd: number, volumeId: string, exportName: string): void {
    const served = this.find(volumeId);
    // The caller still owns the descriptor when this throws.
    if (served.isClosing)
      throw new HoldfastError('CONFLICT', `volume ${volumeId} is being closed: try again`);
    const entry: Export = { fd, served, sessions: new Set() };
    this.#exports.set(exportId, entry);
    served.exportIds.add(exportId);
    const info = (): ExportInfo => ({
      name: exportName,
      sizeBytes: served.volume.sizeBytes,
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

  find(volumeId: string): Served {
    const served = this.#served.get(volumeId);
    if (served === undefined)
      throw new HoldfastError('NOT_FOUND', `volume ${volumeId} is not open in this thread`);
    return served;
  }
}

function isClusterCommand(command: ThreadCommand | ClusterCommand): command is ClusterCommand {
  return CLUSTER_COMMANDS.has(command.type);
}

function countersOf(volume: FrontendHost): VolumeCounters {
  const { latency: _, ...counts } = volume.counts.sample();
  return {
    ...counts,
    inFlight: volume.inFlightCount,
    sessions: volume.sessions.size,
  };
}

function sampleOf(
  volumeId: string,
  served: FrontendHost | undefined,
  host: ReplicaHost | undefined,
): VolumeThreadSample {
  const replica = host?.sample();
  return {
    volumeId,
    frontend: served?.sample(),
    backend: replica?.backend,
    hotExtents: host?.extents.hotCount,
    replica,
  };
}

/** An error as it crosses to the main thread. */
export function describeError(error: unknown): { code: string; message: string } {
  return { code: isHoldfastError(error) ? error.code : 'INTERNAL', message: errorText(error) };
}
