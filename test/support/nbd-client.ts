// An NBD client for tests, written from the protocol's document and sharing nothing with our server, not
// even constants: a wrong number there must not be right here by copying. Strict on purpose: a reply that
// breaks the protocol throws NbdViolation. Every wait is bounded.

import { connect, Socket } from 'node:net';

export const OPT = {
  exportName: 1,
  abort: 2,
  list: 3,
  startTls: 5,
  info: 6,
  go: 7,
  structuredReply: 8,
  listMetaContext: 9,
  setMetaContext: 10,
} as const;
export const REP = { ack: 1, server: 2, info: 3, metaContext: 4, error: 0x80000000 } as const;
export const CMD = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;
export const CMD_FLAG = { fua: 1, noHole: 2, df: 4, reqOne: 8 } as const;
export const EXPORT_FLAG = {
  hasFlags: 1,
  readOnly: 2,
  flush: 4,
  fua: 8,
  rotational: 16,
  trim: 32,
  writeZeroes: 64,
  df: 128,
  multiConn: 256,
  cache: 1024,
} as const;
export const ERR = { perm: 1, io: 5, inval: 22, nospc: 28, overflow: 75, notsup: 95, shutdown: 108 } as const;

const IHAVEOPT = 0x49484156454f5054n;
const OPTION_REPLY_MAGIC = 0x0003e889045565a9n;
const REQUEST_MAGIC = 0x25609513;
const SIMPLE_REPLY_MAGIC = 0x67446698;
const STRUCTURED_REPLY_MAGIC = 0x668e33ef;
const CHUNK = { none: 0, offsetData: 1, offsetHole: 2, blockStatus: 5, error: 0x8001, errorOffset: 0x8002 };
const DEFAULT_TIMEOUT_MS = 15_000;

/** The server broke the protocol. */
export class NbdViolation extends Error {}
/** The server ended the connection (or it broke) while something was expected. */
export class NbdClosed extends Error {}

/** One stream to the server: writes, exact reads, the end. What nobody reads stays in the kernel. */
export class NbdSocket {
  readonly #socket: Socket;
  #ended = false;
  #onChange: () => void = () => undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    const end = () => {
      this.#ended = true;
      this.#onChange();
    };
    // A reset is an end like another here: read() tells it.
    socket.on('error', end).on('close', end).on('end', end);
    // For good: a 'readable' listener that is added while something is buffered fires at once.
    socket.on('readable', () => this.#onChange());
  }

  static connect(path: string): Promise<NbdSocket> {
    return new Promise((resolve, reject) => {
      const socket = connect({ path, allowHalfOpen: true });
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.off('error', reject);
        resolve(new NbdSocket(socket));
      });
    });
  }

  /** Takes the descriptor over. */
  static onDescriptor(fd: number): NbdSocket {
    return new NbdSocket(new Socket({ fd, readable: true, writable: true, allowHalfOpen: true }));
  }

  get isEnded(): boolean {
    return this.#ended;
  }

  /** Resolves when the kernel took it all; also when the server is gone, which the next read tells. */
  async write(bytes: Uint8Array): Promise<void> {
    if (this.#ended) return;
    await new Promise<void>((resolve) => {
      this.#socket.write(bytes, () => resolve());
    });
  }

  /** Hands over without waiting: what the kernel does not take is kept by this process. */
  push(bytes: Uint8Array): void {
    if (!this.#ended) this.#socket.write(bytes);
  }

  async read(count: number, timeoutMs = DEFAULT_TIMEOUT_MS): Promise<Buffer> {
    if (count === 0) return Buffer.alloc(0);
    const deadlineMs = performance.now() + timeoutMs;
    for (;;) {
      const bytes = this.#socket.read(count) as Buffer | null;
      if (bytes !== null && bytes.length === count) return bytes;
      if (bytes !== null || this.#ended) throw new NbdClosed(`closed while ${count} bytes were expected`);
      await this.#change(deadlineMs - performance.now(), `${count} bytes`);
    }
  }

  /** Everything up to the end, which has to come within the time. */
  async readToEnd(timeoutMs = DEFAULT_TIMEOUT_MS): Promise<Buffer> {
    const deadlineMs = performance.now() + timeoutMs;
    const pieces: Buffer[] = [];
    for (;;) {
      const bytes = this.#socket.read() as Buffer | null;
      if (bytes !== null) pieces.push(bytes);
      else if (this.#ended) return Buffer.concat(pieces);
      else await this.#change(deadlineMs - performance.now(), 'the end');
    }
  }

  /** Sends an end without closing the way back. */
  endWriting(): void {
    this.#socket.end();
  }

  destroy(): void {
    this.#ended = true;
    this.#socket.destroy();
    this.#onChange();
  }

  /** Waits until there may be something new to read. */
  async #change(timeoutMs: number, awaited: string): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const isChanged = await new Promise<boolean>((resolve) => {
      timer = setTimeout(() => resolve(false), Math.max(0, timeoutMs));
      this.#onChange = () => resolve(true);
    });
    clearTimeout(timer);
    if (!isChanged) throw new Error(`${awaited} did not come in time`);
  }
}

// ---- negotiation

function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function u64(value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(value);
  return bytes;
}

function counted(text: string): Buffer {
  return Buffer.concat([u32(Buffer.byteLength(text)), Buffer.from(text)]);
}

export function optionBytes(option: number, data: Uint8Array = Buffer.alloc(0)): Buffer {
  return Buffer.concat([u64(IHAVEOPT), u32(option), u32(data.length), data]);
}

export function infoData(name: string, requests: readonly number[] = []): Buffer {
  return Buffer.concat([counted(name), u16(requests.length), ...requests.map(u16)]);
}

export function metaContextData(name: string, queries: readonly string[]): Buffer {
  return Buffer.concat([counted(name), u32(queries.length), ...queries.map(counted)]);
}

export interface OptionReply {
  readonly type: number;
  readonly data: Buffer;
}

/** Reads the server's greeting and answers with `clientFlags`. */
export async function greet(socket: NbdSocket, clientFlags = 3): Promise<void> {
  const hello = await socket.read(18);
  if (hello.toString('latin1', 0, 16) !== 'NBDMAGICIHAVEOPT') throw new NbdViolation('wrong greeting');
  if ((hello.readUInt16BE(16) & 3) !== 3) throw new NbdViolation('no fixed newstyle with NO_ZEROES');
  await socket.write(u32(clientFlags));
}

/** All replies to one option, up to the acknowledgement or error that ends them (which is the last one). */
export async function readOptionReplies(socket: NbdSocket, option: number): Promise<OptionReply[]> {
  const replies: OptionReply[] = [];
  for (;;) {
    const header = await socket.read(20);
    if (header.readBigUInt64BE(0) !== OPTION_REPLY_MAGIC) throw new NbdViolation('wrong option reply magic');
    if (header.readUInt32BE(8) !== option) throw new NbdViolation('a reply to another option');
    const type = header.readUInt32BE(12);
    const lengthBytes = header.readUInt32BE(16);
    if (lengthBytes > 8192) throw new NbdViolation('an absurd option reply');
    replies.push({ type, data: await socket.read(lengthBytes) });
    if (type === REP.ack || type >= REP.error) return replies;
  }
}

export async function askOption(
  socket: NbdSocket,
  option: number,
  data?: Uint8Array,
): Promise<OptionReply[]> {
  await socket.write(optionBytes(option, data));
  return readOptionReplies(socket, option);
}

function demandAck(replies: readonly OptionReply[], what: string): readonly OptionReply[] {
  const last = replies.at(-1);
  if (last?.type !== REP.ack)
    throw new Error(`${what} was refused: ${last?.type.toString(16)} ${last?.data.toString()}`);
  return replies;
}

export interface NegotiateOptions {
  readonly how?: 'go' | 'exportName';
  readonly noZeroes?: boolean;
  readonly structuredReplies?: boolean;
  /** Selects base:allocation; needs structured replies. */
  readonly allocation?: boolean;
  /** How long a reply may take. */
  readonly replyTimeoutMs?: number;
}

export interface ExportFacts {
  readonly sizeBytes: number;
  readonly flags: number;
  /** Of GO only. */
  readonly blockSizes?: { readonly minimum: number; readonly preferred: number; readonly maximum: number };
}

/** The whole negotiation, up to the first request. */
export async function negotiate(
  socket: NbdSocket,
  exportName: string,
  options: NegotiateOptions = {},
): Promise<ExportFacts> {
  const noZeroes = options.noZeroes ?? true;
  await greet(socket, noZeroes ? 3 : 1);
  if (options.structuredReplies)
    demandAck(await askOption(socket, OPT.structuredReply), 'structured replies');
  if (options.allocation) {
    const data = metaContextData(exportName, ['base:allocation']);
    const replies = demandAck(await askOption(socket, OPT.setMetaContext, data), 'base:allocation');
    if (replies.length !== 2) throw new Error('base:allocation is not offered');
  }
  if (options.how === 'exportName') {
    await socket.write(optionBytes(OPT.exportName, Buffer.from(exportName)));
    const answer = await socket.read(noZeroes ? 10 : 134);
    if (!answer.subarray(10).equals(Buffer.alloc(answer.length - 10)))
      throw new NbdViolation('padding is not zero');
    return { sizeBytes: Number(answer.readBigUInt64BE(0)), flags: answer.readUInt16BE(8) };
  }
  const replies = demandAck(await askOption(socket, OPT.go, infoData(exportName, [3])), 'GO');
  const find = (type: number) =>
    replies.find((reply) => reply.type === REP.info && reply.data.readUInt16BE(0) === type);
  const info = find(0)?.data;
  if (info?.length !== 12) throw new NbdViolation('GO without NBD_INFO_EXPORT');
  const sizes = find(3)?.data;
  return {
    sizeBytes: Number(info.readBigUInt64BE(2)),
    flags: info.readUInt16BE(10),
    ...(sizes?.length === 14 && {
      blockSizes: {
        minimum: sizes.readUInt32BE(2),
        preferred: sizes.readUInt32BE(6),
        maximum: sizes.readUInt32BE(10),
      },
    }),
  };
}

// ---- transmission

export interface Request {
  readonly type: number;
  readonly flags?: number;
  readonly offset?: number | bigint;
  /** Of the header; a write's is its payload's by default. */
  readonly length?: number;
  readonly payload?: Uint8Array;
}

export interface Extent {
  readonly lengthBytes: number;
  readonly flags: number;
}

export interface Reply {
  /** 0: success. */
  readonly error: number;
  readonly message: string;
  /** What a READ gave, put together; empty on error. */
  readonly data: Buffer;
  readonly extents: readonly Extent[];
  readonly contentChunks: number;
  readonly isStructured: boolean;
}

interface Pending {
  readonly request: Request;
  readonly lengthBytes: number;
  readonly resolve: (reply: Reply) => void;
  readonly reject: (error: Error) => void;
  data: Buffer;
  readonly filled: { from: number; to: number }[];
  extents: Extent[];
  error: number;
  message: string;
  contentChunks: number;
}

export function requestBytes(request: Request, cookie: bigint): Buffer {
  const header = Buffer.alloc(28);
  header.writeUInt32BE(REQUEST_MAGIC, 0);
  header.writeUInt16BE(request.flags ?? 0, 4);
  header.writeUInt16BE(request.type, 6);
  header.writeBigUInt64BE(cookie, 8);
  header.writeBigUInt64BE(BigInt(request.offset ?? 0), 16);
  header.writeUInt32BE(request.length ?? request.payload?.length ?? 0, 24);
  return request.payload === undefined ? header : Buffer.concat([header, request.payload]);
}

/** A client past the negotiation: any number of requests in flight, replies in any order. */
export class NbdClient {
  readonly socket: NbdSocket;
  readonly facts: ExportFacts;
  readonly #structuredReplies: boolean;
  readonly #replyTimeoutMs: number;
  readonly #pending = new Map<bigint, Pending>();
  /** Starts where all eight bytes matter. */
  #nextCookie = 0x8182_8384_8586_0000n;
  #failure: Error | undefined;
  #isReading = false;

  private constructor(socket: NbdSocket, facts: ExportFacts, options: NegotiateOptions) {
    this.socket = socket;
    this.facts = facts;
    this.#structuredReplies = options.structuredReplies ?? false;
    this.#replyTimeoutMs = options.replyTimeoutMs ?? DEFAULT_TIMEOUT_MS;
  }

  static async connect(path: string, exportName: string, options: NegotiateOptions = {}): Promise<NbdClient> {
    const socket = await NbdSocket.connect(path);
    const facts = await negotiate(socket, exportName, options);
    return new NbdClient(socket, facts, options);
  }

  /** On a connected socket whose negotiation has taken place elsewhere. */
  static afterNegotiation(socket: NbdSocket, facts: ExportFacts, options: NegotiateOptions = {}): NbdClient {
    return new NbdClient(socket, facts, options);
  }

  get inFlight(): number {
    return this.#pending.size;
  }

  request(request: Request): Promise<Reply> {
    return this.requestAll([request])[0] as Promise<Reply>;
  }

  /** Sends all of them in one piece. */
  requestAll(requests: readonly Request[]): Promise<Reply>[] {
    const replies: Promise<Reply>[] = [];
    const bytes: Buffer[] = [];
    for (const request of requests) {
      this.#nextCookie += 1n;
      bytes.push(requestBytes(request, this.#nextCookie));
      replies.push(this.#expect(this.#nextCookie, request));
    }
    this.socket.push(Buffer.concat(bytes));
    return replies;
  }

  /** Sends it byte by byte. */
  async requestSlowly(request: Request): Promise<Reply> {
    this.#nextCookie += 1n;
    const reply = this.#expect(this.#nextCookie, request);
    for (const byte of requestBytes(request, this.#nextCookie)) await this.socket.write(Buffer.from([byte]));
    return reply;
  }

  async read(offset: number, length: number, flags = 0): Promise<Buffer> {
    return demand(await this.request({ type: CMD.read, offset, length, flags }), 'READ').data;
  }

  async write(offset: number, payload: Uint8Array, flags = 0): Promise<void> {
    demand(await this.request({ type: CMD.write, offset, payload, flags }), 'WRITE');
  }

  async writeZeroes(offset: number, length: number, flags = 0): Promise<void> {
    demand(await this.request({ type: CMD.writeZeroes, offset, length, flags }), 'WRITE_ZEROES');
  }

  async trim(offset: number, length: number, flags = 0): Promise<void> {
    demand(await this.request({ type: CMD.trim, offset, length, flags }), 'TRIM');
  }

  async flush(): Promise<void> {
    demand(await this.request({ type: CMD.flush }), 'FLUSH');
  }

  async blockStatus(offset: number, length: number, flags = 0): Promise<readonly Extent[]> {
    return demand(await this.request({ type: CMD.blockStatus, offset, length, flags }), 'BLOCK_STATUS')
      .extents;
  }

  /** DISC, then waits for the server to close. */
  async disconnect(): Promise<void> {
    this.socket.push(requestBytes({ type: CMD.disconnect }, 0n));
    if (!this.#isReading) {
      const rest = await this.socket.readToEnd();
      if (rest.length > 0) throw new NbdViolation('bytes after DISC that answer nothing');
    }
    this.socket.destroy();
  }

  destroy(): void {
    this.socket.destroy();
    this.#fail(new NbdClosed('destroyed by the test'));
  }

  #expect(cookie: bigint, request: Request): Promise<Reply> {
    if (this.#failure !== undefined) return Promise.reject(this.#failure);
    const lengthBytes = request.length ?? request.payload?.length ?? 0;
    const reply = new Promise<Reply>((resolve, reject) => {
      this.#pending.set(cookie, {
        request,
        lengthBytes,
        resolve,
        reject,
        data: Buffer.alloc(0),
        filled: [],
        extents: [],
        error: 0,
        message: '',
        contentChunks: 0,
      });
    });
    // Somebody awaits it in the end; a failure before that must not count as unhandled.
    reply.catch(() => undefined);
    if (!this.#isReading) {
      this.#isReading = true;
      void this.#readReplies();
    }
    return reply;
  }

  async #readReplies(): Promise<void> {
    try {
      while (this.#pending.size > 0) {
        const magic = (await this.socket.read(4, this.#replyTimeoutMs)).readUInt32BE(0);
        if (magic === SIMPLE_REPLY_MAGIC) await this.#simpleReply();
        else if (magic === STRUCTURED_REPLY_MAGIC && this.#structuredReplies) await this.#chunk();
        else throw new NbdViolation(`unexpected reply magic ${magic.toString(16)}`);
      }
    } catch (error) {
      this.#fail(error as Error);
    } finally {
      this.#isReading = false;
    }
  }

  #fail(error: Error): void {
    this.#failure ??= error;
    for (const pending of this.#pending.values()) pending.reject(error);
    this.#pending.clear();
  }

  #find(cookie: bigint): Pending {
    const pending = this.#pending.get(cookie);
    if (pending === undefined) throw new NbdViolation('a reply to nothing that was asked');
    return pending;
  }

  async #simpleReply(): Promise<void> {
    const header = await this.socket.read(12);
    const cookie = header.readBigUInt64BE(4);
    const pending = this.#find(cookie);
    const { type } = pending.request;
    if (this.#structuredReplies && (type === CMD.read || type === CMD.blockStatus)) {
      throw new NbdViolation('a simple reply where a structured one was negotiated');
    }
    const error = header.readUInt32BE(0);
    const hasData = type === CMD.read && error === 0;
    const data = hasData ? await this.socket.read(pending.lengthBytes) : Buffer.alloc(0);
    this.#pending.delete(cookie);
    pending.resolve({
      error,
      message: '',
      data,
      extents: [],
      contentChunks: hasData ? 1 : 0,
      isStructured: false,
    });
  }

  async #chunk(): Promise<void> {
    const header = await this.socket.read(16);
    const cookie = header.readBigUInt64BE(4);
    const pending = this.#find(cookie);
    const lengthBytes = header.readUInt32BE(12);
    if (lengthBytes > 64 * 2 ** 20 + 8) throw new NbdViolation('an absurd chunk');
    takeChunk(pending, header.readUInt16BE(2), await this.socket.read(lengthBytes));
    if ((header.readUInt16BE(0) & 1) === 0) return;
    this.#pending.delete(cookie);
    pending.resolve(finish(pending));
  }
}

/** One structured chunk, held against everything the protocol says about it. */
function takeChunk(pending: Pending, type: number, payload: Buffer): void {
  const isRead = pending.request.type === CMD.read;
  const start = BigInt(pending.request.offset ?? 0);
  switch (type) {
    case CHUNK.none:
      if (payload.length !== 0) throw new NbdViolation('a NONE chunk with payload');
      return;
    case CHUNK.offsetData:
    case CHUNK.offsetHole: {
      const isData = type === CHUNK.offsetData;
      if (!isRead || (isData ? payload.length < 9 : payload.length !== 12)) {
        throw new NbdViolation('a content chunk of a wrong length or of another request');
      }
      const at = Number(payload.readBigUInt64BE(0) - start);
      const content = isData ? payload.subarray(8) : Buffer.alloc(payload.readUInt32BE(8));
      fill(pending, at, content);
      return;
    }
    case CHUNK.blockStatus:
      if (pending.request.type !== CMD.blockStatus || payload.length < 12 || payload.length % 8 !== 4) {
        throw new NbdViolation('a malformed BLOCK_STATUS chunk');
      }
      if (pending.extents.length > 0) throw new NbdViolation('two BLOCK_STATUS chunks of one context');
      for (let at = 4; at < payload.length; at += 8) {
        pending.extents.push({ lengthBytes: payload.readUInt32BE(at), flags: payload.readUInt32BE(at + 4) });
      }
      return;
    default: {
      if ((type & 0x8000) === 0) throw new NbdViolation(`unknown chunk type ${type}`);
      const minimum = type === CHUNK.errorOffset ? 14 : 6;
      if (payload.length < minimum) throw new NbdViolation('an error chunk that is too short');
      const messageBytes = payload.readUInt16BE(4);
      if (messageBytes > payload.length - minimum) throw new NbdViolation('an error text beyond its chunk');
      pending.error ||= payload.readUInt32BE(0);
      if (pending.error === 0) throw new NbdViolation('an error chunk without error');
      pending.message = payload.toString('utf8', 6, 6 + messageBytes);
    }
  }
}

function fill(pending: Pending, at: number, content: Buffer): void {
  const to = at + content.length;
  if (at < 0 || to > pending.lengthBytes) throw new NbdViolation('content outside the request');
  if (pending.filled.some((run) => at < run.to && run.from < to))
    throw new NbdViolation('overlapping content');
  pending.filled.push({ from: at, to });
  pending.contentChunks += 1;
  if (pending.contentChunks > 1 && ((pending.request.flags ?? 0) & CMD_FLAG.df) !== 0) {
    throw new NbdViolation('a fragmented reply to a request with DF');
  }
  if (pending.data.length === 0) pending.data = Buffer.alloc(pending.lengthBytes);
  content.copy(pending.data, at);
}

function finish(pending: Pending): Reply {
  const { error, message, extents, contentChunks } = pending;
  const filledBytes = pending.filled.reduce((sum, run) => sum + run.to - run.from, 0);
  if (error === 0 && pending.request.type === CMD.read && filledBytes !== pending.lengthBytes) {
    throw new NbdViolation('a successful READ with holes in its reply');
  }
  if (error === 0 && pending.request.type === CMD.blockStatus) checkExtents(pending);
  const data = error === 0 ? pending.data : Buffer.alloc(0);
  return { error, message, data, extents, contentChunks, isStructured: true };
}

function checkExtents(pending: Pending): void {
  const { extents, lengthBytes } = pending;
  const sumBytes = extents.reduce((sum, extent) => sum + extent.lengthBytes, 0);
  if (extents.length === 0 || extents.some((extent) => extent.lengthBytes === 0)) {
    throw new NbdViolation('BLOCK_STATUS without extents, or with an empty one');
  }
  const isOne = ((pending.request.flags ?? 0) & CMD_FLAG.reqOne) !== 0;
  if (isOne && extents.length > 1) throw new NbdViolation('several extents where one was asked for');
  // Only the last extent may reach beyond what was asked, and only without REQ_ONE.
  const beforeLast = sumBytes - (extents.at(-1)?.lengthBytes ?? 0);
  if (beforeLast >= lengthBytes || (isOne && sumBytes > lengthBytes)) {
    throw new NbdViolation('extents beyond the request');
  }
}

export class NbdRequestError extends Error {
  readonly error: number;

  constructor(what: string, reply: Reply) {
    super(`${what} failed with ${reply.error} ${reply.message}`);
    this.error = reply.error;
  }
}

function demand(reply: Reply, what: string): Reply {
  if (reply.error !== 0) throw new NbdRequestError(what, reply);
  return reply;
}
