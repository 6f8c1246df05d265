// The one port that other daemons reach (--listen), for calls (TLS, server.ts) and for links between data planes
// (dataplane/peers) alike. The first byte of a connection tells which it is, and whoever serves that kind gets it with
// every byte that was read. Nothing is answered here, and nobody is believed: the proof is asked for further on.
//
// Invariant: what has said nothing yet costs a descriptor, and SILENT_LIMIT of them at most. One too many ends the one
// that came first: a daemon speaks as soon as it is connected, so a flood of silent connections hardly ever hits one.

import { once } from 'node:events';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { errorText, HoldfastError } from '../../core/errors.ts';
import { invariant } from '../../core/invariant.ts';
import { native } from '../../dataplane/native.ts';
import type { RefusalLog } from './refusal-log.ts';

/** A handshake record: all TLS begins with it. */
const FIRST_OF_TLS = 0x16;
/** Of 'HFpeer': a link's greeting (dataplane/peers/handshake.ts). */
const FIRST_OF_LINK = 0x48;

const FIRST_BYTE_TIMEOUT_MS = 5000;
export const SILENT_LIMIT = 256;

export interface ClusterListenerOptions {
  readonly host: string;
  /** 0: a free one. */
  readonly port: number;
  /** A connection that begins as TLS does; what was read of it can be read again. The callee owns it. */
  readonly onCall: (socket: Socket) => void;
  /**
   * A connection that begins as a link does, and what was read of it: a byte at least. The callee owns the descriptor,
   * which is blocking, as rings want it.
   */
  readonly onLink: (fd: number, received: Uint8Array) => void;
  readonly refusals: RefusalLog;
}

export class ClusterListener {
  readonly #options: ClusterListenerOptions;
  readonly #server: Server;
  /** Who has said nothing yet, the oldest first. */
  readonly #silent = new Set<Socket>();

  /** IO when the address cannot be listened on. */
  static async listen(options: ClusterListenerOptions): Promise<ClusterListener> {
    const listener = new ClusterListener(options);
    listener.#server.listen({ host: options.host, port: options.port });
    try {
      await once(listener.#server, 'listening');
    } catch (error) {
      throw new HoldfastError('IO', `--listen: ${errorText(error)}: give this daemon another port`, {
        cause: error,
      });
    }
    // Accepting may fail for a while, for want of descriptors.
    listener.#server.on('error', (error) => options.refusals.ofAccept(error));
    return listener;
  }

  private constructor(options: ClusterListenerOptions) {
    this.#options = options;
    this.#server = createServer((socket) => this.#accepted(socket));
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Nobody is accepted any more, and who has said nothing is sent away. What was passed on is not touched. */
  close(): void {
    this.#server.close();
    for (const socket of this.#silent) socket.destroy();
  }

  #accepted(socket: Socket): void {
    if (this.#silent.size >= SILENT_LIMIT) {
      const [oldest] = this.#silent;
      oldest?.destroy();
    }
    const leave = (): void => void socket.destroy();
    const read = (): void => {
      const received = socket.read() as Buffer | null;
      if (received === null) return;
      socket.off('readable', read).off('timeout', leave).off('close', forget).setTimeout(0);
      forget();
      this.#passOn(socket, received);
    };
    const forget = (): void => void this.#silent.delete(socket);
    this.#silent.add(socket);
    // It breaks before it has said anything: nobody is left to be told. Later its owner sees it in other ways.
    socket.on('error', () => undefined);
    socket.on('readable', read).on('timeout', leave).on('close', forget).setTimeout(FIRST_BYTE_TIMEOUT_MS);
  }

  #passOn(socket: Socket, received: Buffer): void {
    const [first] = received;
    if (first === FIRST_OF_TLS) {
      socket.unshift(received);
      this.#options.onCall(socket);
    } else if (first === FIRST_OF_LINK) {
      const fd = this.#takeDescriptor(socket);
      // A copy: a Buffer drags along what it was cut from, to whichever thread it goes.
      if (fd !== undefined) this.#options.onLink(fd, new Uint8Array(received));
    } else {
      this.#options.refusals.ofProtocol(socket.remoteAddress);
      socket.destroy();
    }
  }

  /**
   * The connection outlives its socket, under another descriptor. Both steps are made before Node's loop runs again:
   * it reads nothing in between. undefined: no descriptor is to be had, and the connection is closed.
   */
  #takeDescriptor(socket: Socket): number | undefined {
    // Node has no public way to a socket's descriptor; this one has stood since its first versions.
    const { _handle: handle } = socket as unknown as { readonly _handle: { readonly fd: number } | null };
    invariant(handle !== null && handle.fd >= 0, 'a socket that was just read has a descriptor');
    try {
      return native.duplicateSocket(handle.fd);
    } catch (error) {
      this.#options.refusals.ofAccept(error);
      return undefined;
    } finally {
      // Closes its own descriptor, without a shutdown.
      socket.destroy();
    }
  }
}
