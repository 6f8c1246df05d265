// The calling end of the control channel: one connection to one daemon, made when it is needed and left when it is
// idle. A call that is not answered may have happened: every method may be asked again.

import { once } from 'node:events';
import { type ClientHttp2Session, type ClientHttp2Stream, connect } from 'node:http2';
import { errorText, HoldfastError, isHoldfastError } from '../../core/errors.ts';
import type { ClusterKey } from '../cluster-key.ts';
import {
  CONTROL_VERSIONS,
  type ControlRequest,
  type ControlResponse,
  checked,
  failureSchema,
  HEADER,
  MAX_MESSAGE_BYTES,
  METHODS,
  type Method,
} from './protocol.ts';
import { clientTls } from './psk.ts';

const TIMEOUT_MS = 30_000;
const IDLE_MS = 60_000;

export interface ControlClientOptions {
  /** HOST:PORT as the node advertises it. */
  readonly address: string;
  readonly key: ClusterKey;
  /** The store's identity. */
  readonly cluster: string;
  /** Our node's name, and the one that is called. */
  readonly from: string;
  readonly to: string;
}

interface Reply {
  readonly status: number;
  readonly body: string;
}

export class ControlClient {
  readonly #options: ControlClientOptions;
  #session: ClientHttp2Session | undefined;

  constructor(options: ControlClientOptions) {
    this.#options = options;
  }

  /**
   * What the other daemon throws is thrown here. UNAVAILABLE: not reached, or cut off; TIMEOUT; CONFLICT: it holds
   * another key, or belongs to another cluster.
   */
  async call<M extends Method>(
    method: M,
    request: ControlRequest<M>,
    timeoutMs = TIMEOUT_MS,
  ): Promise<ControlResponse<M>> {
    const deadline = AbortSignal.timeout(timeoutMs);
    let reply: Reply;
    try {
      const session = await this.#connected(deadline);
      reply = await this.#exchange(session, method, JSON.stringify(request), deadline);
    } catch (error) {
      if (isHoldfastError(error)) throw error;
      // Whatever is wrong with it, the next call has a new connection.
      this.close();
      throw this.#failure(error, deadline.aborted ? timeoutMs : undefined);
    }
    if (reply.status === 200) return checked(METHODS[method].response, reply.body) as ControlResponse<M>;
    const { code, message, details } = checked(failureSchema, reply.body);
    throw new HoldfastError(code, message, { details });
  }

  /** Calls that run end with UNAVAILABLE; the next one connects again. */
  close(): void {
    this.#session?.destroy();
    this.#session = undefined;
  }

  async #connected(deadline: AbortSignal): Promise<ClientHttp2Session> {
    const standing = this.#session;
    const isUsable = standing !== undefined && !standing.destroyed && !standing.closed;
    const session = isUsable
      ? standing
      : connect(`https://${this.#options.address}`, clientTls(this.#options.key));
    if (!isUsable) {
      this.#session = session;
      // The calls that it breaks are told.
      session.on('error', () => undefined);
      session.setTimeout(IDLE_MS, () => session.close());
    }
    if (session.connecting) await once(session, 'connect', { signal: deadline });
    session.unref();
    return session;
  }

  async #exchange(
    session: ClientHttp2Session,
    method: Method,
    body: string,
    deadline: AbortSignal,
  ): Promise<Reply> {
    const { cluster, from, to } = this.#options;
    const stream = session.request(
      {
        ':method': 'POST',
        ':path': `/${method}`,
        [HEADER.version]: String(CONTROL_VERSIONS.max),
        [HEADER.oldestVersion]: String(CONTROL_VERSIONS.min),
        [HEADER.cluster]: cluster,
        [HEADER.from]: from,
        [HEADER.to]: to,
      },
      { signal: deadline },
    );
    const reply = receive(stream);
    stream.end(body);
    return await reply;
  }

  #failure(error: unknown, timedOutMs: number | undefined): HoldfastError {
    const { address, to } = this.#options;
    const there = `node "${to}" at ${address}`;
    if (timedOutMs !== undefined) {
      return new HoldfastError('TIMEOUT', `${there} has not answered within ${timedOutMs} ms: try again`, {
        cause: error,
      });
    }
    if (isTlsFailure(error)) {
      return new HoldfastError(
        'CONFLICT',
        `${there} does not hold the same cluster key as this daemon: copy one key to both, and restart them`,
        { cause: error },
      );
    }
    return new HoldfastError(
      'UNAVAILABLE',
      `${there} cannot be reached (${errorText(error)}): check that its daemon runs`,
      {
        cause: error,
      },
    );
  }
}

/** The other end was there, and there was no agreement on a key. */
function isTlsFailure(error: unknown): boolean {
  const code = error instanceof Error ? String((error as NodeJS.ErrnoException).code) : '';
  return /^(ERR_SSL_|ERR_TLS_|DEPTH_ZERO_SELF_SIGNED_CERT|SELF_SIGNED_|UNABLE_TO_)/.test(code);
}

function receive(stream: ClientHttp2Stream): Promise<Reply> {
  const { promise, resolve, reject } = Promise.withResolvers<Reply>();
  let status = 0;
  let body = '';
  stream.setEncoding('utf8');
  stream.on('response', (headers) => {
    status = Number(headers[':status']);
  });
  stream.on('data', (part: string) => {
    body += part;
    if (body.length > MAX_MESSAGE_BYTES) stream.destroy(new Error('the answer is too long'));
  });
  stream.on('error', reject);
  stream.on('close', () => {
    if (stream.readableEnded && status !== 0) resolve({ status, body });
    else reject(new Error('the connection was cut'));
  });
  return promise;
}
