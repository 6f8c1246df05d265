// What the links between daemons ask of those they serve: a volume (a replica, or a frontend) is the host of its
// links, a thread's volumes together are the host of its Peers.
//
// Rules of calling: a host is called from the turn of the loop, never from within a call that it made itself, so
// it may call back (send, close, connect) at will. After closeLink() it hears nothing of that link any more; else
// every link ends in linkClosed, once.

import type { ControlMessage, FrameFields, Hello } from '../../replication/frames.ts';

export interface LinkHost {
  control(link: number, type: number, message: ControlMessage): void;
  /**
   * `fields` are filled again after the call. `request`: a slot of thread.slots whose buffer holds the payload, or
   * has room for the answer, or NONE; the host gives it back by PeerSlots.release(). The slot's fields of the
   * RequestTable are the host's to fill.
   */
  frame(link: number, fields: FrameFields, request: number): void;
  linkClosed(link: number): void;
}

/** A volume that others may open links to. */
export interface GreetedHost extends LinkHost {
  greeted(link: number, hello: Hello): void;
}

/** What happened to a connection, for the log. `peer`: its address. */
export type PeerEvent =
  /**
   * It did not prove that it holds the key of this cluster, or could not be proven to, or there is no version that both
   * speak. At most one a peer and minute.
   */
  | { readonly type: 'refused'; readonly peer: string; readonly reason: string }
  /** It could not be connected to. Said as rarely. */
  | { readonly type: 'unreachable'; readonly peer: string; readonly reason: string }
  /** Of an authenticated one; `volumeId` as far as it is known. */
  | { readonly type: 'ended'; readonly peer: string; readonly volumeId: string; readonly reason: string };

export interface PeersHost {
  /** Who serves the volume of this Hello in this thread, or undefined. */
  hostOf(hello: Hello): GreetedHost | undefined;
  /** A connection for a volume that is not in this thread: whoever takes it owns the descriptor (Peers.adopt). */
  handOver(connection: GreetedConnection): void;
  event(event: PeerEvent): void;
}

/**
 * A connection whose other end is authenticated and has said its Hello, and nothing after it is read: plain data,
 * for another thread.
 */
export interface GreetedConnection {
  readonly fd: number;
  readonly sendKey: Uint8Array;
  readonly receiveKey: Uint8Array;
  readonly wireVersion: number;
  readonly hello: Hello;
}
