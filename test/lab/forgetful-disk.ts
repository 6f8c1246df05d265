// A disk for lab guests that forgets, when the power is cut, what no FLUSH or FUA had covered.
//
//   guest: /dev/vda, virtio-blk ── vhost-user ── qemu-storage-daemon ── NBD ── this process: Platter
//
// It lives outside the guest, so it sees exactly the writes and flushes the guest's kernel sent, and it is
// independent of our own data plane: a plain NBD server on node:net that shares no code with it.
// (A guest's own /dev/ubda cannot serve here: what it wrote is in the host's page cache, flushed or not.)

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isListening } from '../support/listening.ts';
import { LabError } from './machine.ts';
import { type CutReport, Platter } from './platter.ts';
import type { Random } from './random.ts';
import { findProgram, missingRequirements } from './requirements.ts';

const INIT_MAGIC = 0x4e42444d41474943n; // 'NBDMAGIC'
const OPTION_MAGIC = 0x49484156454f5054n; // 'IHAVEOPT'
const OPTION_REPLY_MAGIC = 0x3e889045565a9n;
const REQUEST_MAGIC = 0x25609513;
const SIMPLE_REPLY_MAGIC = 0x67446698;
const OPTION = { abort: 2, go: 7 } as const;
const REPLY = { ack: 1, info: 3, unsupported: 0x80000001 } as const;
const COMMAND = { read: 0, write: 1, disconnect: 2, flush: 3, trim: 4, writeZeroes: 6 } as const;
const FLAG_FUA = 1;
/** HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_TRIM | SEND_WRITE_ZEROES */
const TRANSMISSION_FLAGS = 1 | 4 | 8 | 32 | 64;
const EIO = 5;
const EINVAL = 22;

export class ForgetfulDisk implements AsyncDisposable {
  /** For a guest's `virtioDisks`. */
  readonly socketPath: string;
  readonly platter: Platter;
  /** While true every flush, and every write that asks for FUA, fails with EIO and makes nothing stable. */
  failsFlushes = false;
  flushCount = 0;
  readonly #dir: string;
  readonly #server: Server;
  readonly #connections = new Set<Socket>();
  #export: ChildProcess | undefined;

  private constructor(dir: string, sizeBytes: number, sectorBytes?: number) {
    this.#dir = dir;
    this.socketPath = join(dir, 'vhost');
    this.platter = new Platter(sizeBytes, sectorBytes);
    this.#server = createServer((socket) => {
      this.#connections.add(socket);
      socket.on('close', () => this.#connections.delete(socket));
      socket.on('error', () => socket.destroy()); // the peer was killed: that is what it is for
      void this.#serve(socket).catch(() => socket.destroy()); // likewise: end of stream in a request
    });
  }

  /** `sectorBytes`: as Platter's. */
  static async create(sizeBytes: number, sectorBytes?: number): Promise<ForgetfulDisk> {
    const dir = await mkdtemp(join(tmpdir(), 'holdfast-disk-'));
    const disk = new ForgetfulDisk(dir, sizeBytes, sectorBytes);
    await new Promise<void>((resolve, reject) => {
      disk.#server.once('error', reject).listen(disk.#nbdPath, resolve);
    });
    try {
      await disk.plugIn();
    } catch (error) {
      await disk[Symbol.asyncDispose]();
      throw error;
    }
    return disk;
  }

  get #nbdPath(): string {
    return join(this.#dir, 'nbd');
  }

  /** Makes the disk available to the next guest. One guest at a time. */
  async plugIn(): Promise<void> {
    const program = findProgram('qemu-storage-daemon');
    if (program === undefined) {
      throw new LabError(`qemu-storage-daemon is missing: ${missingRequirements('tests')?.remedy}`);
    }
    await rm(this.socketPath, { force: true });
    const node = `driver=nbd,node-name=disk,server.type=unix,server.path=${this.#nbdPath}`;
    const vhost = `type=vhost-user-blk,id=guest,node-name=disk,writable=on`;
    const child = spawn(
      program,
      ['--blockdev', node, '--export', `${vhost},addr.type=unix,addr.path=${this.socketPath}`],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    this.#export = child;
    let complaint = '';
    child.stderr?.on('data', (chunk) => (complaint += String(chunk)));
    child.on('error', (error) => (complaint += error.message));
    for (let tries = 0; !isListening(this.socketPath); tries++) {
      if (tries === 1500 || child.exitCode !== null) {
        throw new LabError(`qemu-storage-daemon did not start: ${complaint.trim()}`);
      }
      await sleep(10);
    }
  }

  /** To be called when the guest is dead: pulls the plug and forgets. `plugIn` brings the disk back. */
  async cut(random: Random): Promise<CutReport> {
    await this.unplug();
    return this.platter.cut(random);
  }

  /** Ends the export; requests that had already reached this disk are carried out. */
  async unplug(): Promise<void> {
    const child = this.#export;
    this.#export = undefined;
    if (child !== undefined && child.exitCode === null && child.signalCode === null) {
      const exited = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGKILL');
      await exited;
    }
    for (let tries = 0; this.#connections.size > 0 && tries < 500; tries++) await sleep(10);
    for (const socket of this.#connections) socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.unplug();
    await new Promise((resolve) => this.#server.close(resolve));
    await rm(this.#dir, { recursive: true, force: true });
  }

  async #serve(socket: Socket): Promise<void> {
    const input = new ByteReader(socket);
    if (!(await this.#handshake(socket, input))) return;
    for (;;) {
      const header = await input.take(28);
      if (header.readUInt32BE(0) !== REQUEST_MAGIC) throw new LabError('wrong request magic');
      const type = header.readUInt16BE(6);
      if (type === COMMAND.disconnect) return void socket.end();
      const lengthBytes = header.readUInt32BE(24);
      const data = type === COMMAND.write ? Buffer.from(await input.take(lengthBytes)) : undefined;
      const isFua = (header.readUInt16BE(4) & FLAG_FUA) !== 0;
      const error = this.#perform(type, isFua, Number(header.readBigUInt64BE(16)), lengthBytes, data);
      const reply = Buffer.alloc(16);
      reply.writeUInt32BE(SIMPLE_REPLY_MAGIC, 0);
      reply.writeUInt32BE(error, 4);
      header.copy(reply, 8, 8, 16);
      socket.write(reply);
      if (type === COMMAND.read && error === 0) {
        const offsetBytes = Number(header.readBigUInt64BE(16));
        socket.write(Buffer.from(this.platter.read(offsetBytes, lengthBytes)));
      }
    }
  }

  /** Returns the errno of the reply. */
  #perform(
    type: number,
    isFua: boolean,
    offsetBytes: number,
    lengthBytes: number,
    data: Buffer | undefined,
  ): number {
    if (offsetBytes + lengthBytes > this.platter.sizeBytes) return EINVAL;
    switch (type) {
      case COMMAND.read:
        return 0;
      case COMMAND.write:
        if (data !== undefined) this.platter.write(offsetBytes, data);
        break;
      case COMMAND.trim:
      case COMMAND.writeZeroes:
        this.platter.zero(offsetBytes, lengthBytes);
        break;
      case COMMAND.flush:
        if (this.failsFlushes) return EIO;
        this.flushCount++;
        this.platter.flush();
        return 0;
      default:
        return EINVAL;
    }
    if (isFua && this.failsFlushes) return EIO;
    if (isFua) this.platter.flushRange(offsetBytes, lengthBytes);
    return 0;
  }

  /** Fixed newstyle, as little of it as qemu needs. False: the client went away in order. */
  async #handshake(socket: Socket, input: ByteReader): Promise<boolean> {
    const greeting = Buffer.alloc(18);
    greeting.writeBigUInt64BE(INIT_MAGIC, 0);
    greeting.writeBigUInt64BE(OPTION_MAGIC, 8);
    greeting.writeUInt16BE(3, 16); // FIXED_NEWSTYLE | NO_ZEROES
    socket.write(greeting);
    await input.take(4);
    for (;;) {
      const header = await input.take(16);
      const option = header.readUInt32BE(8);
      await input.take(header.readUInt32BE(12));
      if (option === OPTION.go) {
        const info = Buffer.alloc(12); // NBD_INFO_EXPORT
        info.writeBigUInt64BE(BigInt(this.platter.sizeBytes), 2);
        info.writeUInt16BE(TRANSMISSION_FLAGS, 10);
        socket.write(optionReply(option, REPLY.info, info));
        socket.write(optionReply(option, REPLY.ack));
        return true;
      }
      socket.write(optionReply(option, option === OPTION.abort ? REPLY.ack : REPLY.unsupported));
      if (option === OPTION.abort) return false;
    }
  }
}

function optionReply(option: number, type: number, data = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(20);
  header.writeBigUInt64BE(OPTION_REPLY_MAGIC, 0);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(type, 12);
  header.writeUInt32BE(data.length, 16);
  return Buffer.concat([header, data]);
}

/** Takes exact lengths out of a socket's stream; rejects at its end. */
class ByteReader {
  readonly #chunks: AsyncIterator<Buffer>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(socket: Socket) {
    this.#chunks = socket[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  }

  async take(lengthBytes: number): Promise<Buffer> {
    const parts = [this.#rest];
    let have = this.#rest.length;
    while (have < lengthBytes) {
      const next = await this.#chunks.next();
      if (next.done === true) throw new LabError('end of stream');
      parts.push(next.value);
      have += next.value.length;
    }
    const whole = parts.length === 1 ? this.#rest : Buffer.concat(parts);
    this.#rest = whole.subarray(lengthBytes);
    return whole.subarray(0, lengthBytes);
  }
}
