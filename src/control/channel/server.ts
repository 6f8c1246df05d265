// The answering end of the control channel, for the connections that listener.ts accepts. Whoever does not prove the
// cluster's key is refused by TLS, learns nothing, and is logged once a minute. A call from another cluster, for another
// node, or in a version that we do not speak is refused before its body is looked at. It decides nothing else: the
// handlers do.

import {
  constants,
  createSecureServer,
  type Http2SecureServer,
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from 'node:http2';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { errorText, HoldfastError, isHoldfastError } from '../../core/errors.ts';
import { InvariantError } from '../../core/invariant.ts';
import type { Logger } from '../../observe/log.ts';
import { chooseVersion } from '../../replication/wire.ts';
import type { ClusterKey } from '../cluster-key.ts';
import {
  CONTROL_VERSIONS,
  type ControlHandlers,
  checked,
  HEADER,
  isMethod,
  MAX_MESSAGE_BYTES,
  METHODS,
} from './protocol.ts';
import { serverTls } from './psk.ts';
import type { RefusalLog } from './refusal-log.ts';

const HANDSHAKE_TIMEOUT_MS = 5000;
/** Of all daemons of a cluster, and of those who try. */
const MAX_CONNECTIONS = 512;
const MAX_CONCURRENT_CALLS = 64;
/** From the first header to the last byte of a request. */
const RECEIVE_TIMEOUT_MS = 10_000;

export interface ControlServerOptions {
  readonly key: ClusterKey;
  /** The store's identity: the same for all daemons of a cluster, and for no others. */
  readonly cluster: string;
  /** This node's name. */
  readonly node: string;
  readonly handlers: ControlHandlers;
  readonly log: Logger;
  readonly refusals: RefusalLog;
}

export class ControlServer {
  readonly #options: ControlServerOptions;
  readonly #server: Http2SecureServer;
  readonly #sessions = new Set<ServerHttp2Session>();
  readonly #running = new Set<Promise<void>>();
  /** All connections, also those that still shake hands. */
  readonly #sockets = new Set<Socket>();
  #closing: Promise<void> | undefined;

  constructor(options: ControlServerOptions) {
    this.#options = options;
    this.#server = createSecureServer({
      ...serverTls(options.key),
      handshakeTimeout: HANDSHAKE_TIMEOUT_MS,
      settings: { maxConcurrentStreams: MAX_CONCURRENT_CALLS, enablePush: false },
    });
    this.#server.on('tlsClientError', (error, socket) =>
      options.refusals.ofHandshake(error, socket.remoteAddress),
    );
    this.#server.on('session', (session) => {
      this.#sessions.add(session);
      session.on('close', () => this.#sessions.delete(session));
    });
    // The session is gone; its calls end with it.
    this.#server.on('sessionError', (error) => options.log.debug({ error }, 'a control connection broke'));
    this.#server.on('stream', (stream, headers) => {
      const serving = this.#serve(stream, headers);
      this.#running.add(serving);
      // Rejects with a broken invariant only, which is to stop the process.
      void serving.finally(() => this.#running.delete(serving));
    });
  }

  /** A connection that begins as TLS does. One that is too many is closed. */
  accept(socket: Socket): void {
    if (this.#closing !== undefined || this.#sockets.size >= MAX_CONNECTIONS) {
      socket.destroy();
      return;
    }
    this.#sockets.add(socket);
    socket.on('close', () => this.#sockets.delete(socket));
    // As if it listened itself: TLS takes what was read before the rest.
    this.#server.emit('connection', socket);
  }

  /** Takes no new calls, and gives those that run `graceMs`. */
  async close(graceMs: number): Promise<void> {
    this.#closing ??= this.#close(graceMs);
    await this.#closing;
  }

  async #close(graceMs: number): Promise<void> {
    // No new calls on connections that are there.
    for (const session of this.#sessions) session.close();
    await Promise.race([Promise.allSettled(this.#running), sleep(graceMs, undefined, { ref: false })]);
    const closed = Array.from(
      this.#sockets,
      (socket) => new Promise((resolve) => socket.on('close', resolve)),
    );
    for (const session of this.#sessions) session.destroy();
    for (const socket of this.#sockets) socket.destroy();
    await Promise.all(closed);
  }

  async #serve(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): Promise<void> {
    // The caller has gone: nobody is left to be told.
    stream.on('error', () => undefined);
    const respond = (status: number, body: unknown): void => {
      if (stream.destroyed || stream.closed) return;
      stream.respond({ ':status': status, 'content-type': 'application/json' });
      stream.end(JSON.stringify(body));
    };
    try {
      respond(200, await this.#answer(stream, headers));
    } catch (error) {
      if (error instanceof InvariantError) throw error;
      this.#options.log.debug({ call: headers[':path'], error }, 'a control call failed');
      const { code, message, details } = isHoldfastError(error)
        ? error
        : new HoldfastError('INTERNAL', `unexpected: ${errorText(error)}; the log of that daemon has more`);
      respond(500, { code, message, details });
    }
  }

  async #answer(stream: ServerHttp2Stream, headers: IncomingHttpHeaders): Promise<unknown> {
    const method = String(headers[':path']).slice(1);
    this.#checkCaller(headers, stream.session?.socket.remoteAddress);
    if (!isMethod(method))
      throw new HoldfastError('UNSUPPORTED', `this daemon does not know "${method}": upgrade it`);
    const request = checked(METHODS[method].request, await receive(stream));
    const handle = this.#options.handlers[method] as (request: unknown) => Promise<unknown>;
    return await handle(request);
  }

  #checkCaller(headers: IncomingHttpHeaders, address: string | undefined): void {
    const { cluster, node } = this.#options;
    const max = Number(headers[HEADER.version]);
    const min = Number(headers[HEADER.oldestVersion] ?? max);
    if (chooseVersion(CONTROL_VERSIONS, { min, max }) === undefined) {
      throw new HoldfastError(
        'UNSUPPORTED',
        `node "${node}" speaks versions ${CONTROL_VERSIONS.min} to ${CONTROL_VERSIONS.max} of the control channel, asked was ` +
          `one of ${min} to ${max}: upgrade the older daemon first`,
      );
    }
    if (headers[HEADER.cluster] !== cluster) {
      this.#options.refusals.ofCluster(address, headers[HEADER.from], headers[HEADER.cluster]);
      throw new HoldfastError(
        'CONFLICT',
        `node "${node}" belongs to another cluster (its store is ${cluster}): give both daemons the same --store, or ` +
          'each cluster a key of its own',
      );
    }
    if (headers[HEADER.to] !== node) {
      throw new HoldfastError(
        'CONFLICT',
        `node "${node}" answers where "${String(headers[HEADER.to])}" was called: correct the --advertise of one of them`,
      );
    }
  }
}

/** LIMIT when it is too large; one that does not end is cut off. */
async function receive(stream: ServerHttp2Stream): Promise<string> {
  const parts: Buffer[] = [];
  let bytes = 0;
  const timer = setTimeout(() => stream.close(constants.NGHTTP2_CANCEL), RECEIVE_TIMEOUT_MS);
  try {
    for await (const part of stream as AsyncIterable<Buffer>) {
      bytes += part.length;
      // Read to its end even so: leaving would cut the stream before it is answered.
      if (bytes <= MAX_MESSAGE_BYTES) parts.push(part);
    }
  } finally {
    clearTimeout(timer);
  }
  if (bytes > MAX_MESSAGE_BYTES) {
    throw new HoldfastError('LIMIT', `a message has at most ${MAX_MESSAGE_BYTES} bytes`);
  }
  return Buffer.concat(parts).toString();
}
