// A disk in memory for tests of the kernel's NBD driver: answers transmission-phase requests on a socket it
// is given. Knows nothing of Holdfast's own server. `hangs` makes it take requests and never answer.

import { Socket } from 'node:net';

const REQUEST_BYTES = 28;
const REQUEST_MAGIC = 0x25609513;
const SIMPLE_REPLY_MAGIC = 0x67446698;
const COMMAND = { read: 0, write: 1, disconnect: 2 } as const;

export class MemoryDisk {
  readonly bytes: Buffer;
  hangs = false;
  requestCount = 0;
  readonly #sockets = new Set<Socket>();

  constructor(sizeBytes: number) {
    this.bytes = Buffer.alloc(sizeBytes);
  }

  /** Takes over the descriptor. */
  serve(fd: number): void {
    const socket = new Socket({ fd, readable: true, writable: true });
    this.#sockets.add(socket);
    let pending = Buffer.alloc(0);
    socket.on('data', (chunk) => {
      pending = Buffer.concat([pending, chunk]);
      for (let used = this.#answer(socket, pending); used > 0; used = this.#answer(socket, pending)) {
        pending = pending.subarray(used);
      }
    });
    const forget = () => {
      this.#sockets.delete(socket);
    };
    socket.on('close', forget).on('error', forget);
    socket.resume();
  }

  get connectionCount(): number {
    return this.#sockets.size;
  }

  /** As a server that is stuck: nothing is read any more, and the kernel's sends come to wait. */
  stall(): void {
    for (const socket of this.#sockets) socket.pause();
  }

  /** As a killed server: every connection ends without a word. */
  drop(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** Performs the first request of `input` if it is there whole; returns how many bytes it took. */
  #answer(socket: Socket, input: Buffer): number {
    if (input.length < REQUEST_BYTES || this.hangs) return 0;
    if (input.readUInt32BE(0) !== REQUEST_MAGIC) throw new Error('wrong magic from the kernel');
    const type = input.readUInt16BE(6);
    const offset = Number(input.readBigUInt64BE(16));
    const length = input.readUInt32BE(24);
    const taken = REQUEST_BYTES + (type === COMMAND.write ? length : 0);
    if (input.length < taken) return 0;
    this.requestCount++;
    if (type === COMMAND.disconnect) {
      socket.destroy();
      return 0;
    }
    if (type === COMMAND.write) input.copy(this.bytes, offset, REQUEST_BYTES, taken);
    const reply = Buffer.alloc(16);
    reply.writeUInt32BE(SIMPLE_REPLY_MAGIC, 0);
    input.copy(reply, 8, 8, 16);
    socket.write(reply);
    if (type === COMMAND.read) socket.write(Buffer.from(this.bytes.subarray(offset, offset + length)));
    return taken;
  }
}
