// etcd as one partner: several servers, one of which is asked until it fails; a token where users are
// configured; a deadline for every call.
//
// Invariant: `once` hands a request to a connection at most one time, unless etcd itself said that it did
// nothing (a forgotten token). Whatever else happened to it then is 'unknown'.

import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ChannelCredentials, credentials, status } from '@grpc/grpc-js';
import { errorText, HoldfastError } from '../../core/errors.ts';
import { invariant } from '../../core/invariant.ts';
import { EtcdCallError } from './call-error.ts';
import { type CallOptions, Endpoint, type EtcdStream } from './endpoint.ts';
import type { RequestOf, ResponseOf, UnaryName } from './methods.ts';

export interface EtcdClientOptions {
  /** HOST:PORT of the servers' client ports. */
  readonly endpoints: readonly string[];
  /** Files in PEM form; undefined: no TLS. */
  readonly tls?: {
    readonly ca?: string | undefined;
    readonly cert?: string | undefined;
    readonly key?: string | undefined;
  };
  readonly user?: { readonly name: string; readonly password: string };
  /** For each call, all attempts together. Default 5 s. */
  readonly timeoutMs?: number;
}

/** What is done with one server. */
export type Attempt<T> = (endpoint: Endpoint, options: CallOptions) => Promise<T>;

const DEFAULT_TIMEOUT_MS = 5000;
/** Between two rounds over all servers. */
const PAUSE_MS = 100;
/** A token is taken anew so often for one call. */
const TOKEN_LIMIT = 3;

export class EtcdClient {
  readonly timeoutMs: number;
  readonly #endpoints: readonly Endpoint[];
  readonly #user: EtcdClientOptions['user'];
  #current = 0;
  #token: Promise<string | undefined> | undefined;
  #isClosed = false;

  constructor(options: EtcdClientOptions) {
    invariant(options.endpoints.length > 0, 'there is an etcd server to ask');
    const channel = channelCredentials(options.tls);
    this.#endpoints = options.endpoints.map((address) => new Endpoint(address, channel));
    this.#user = options.user;
    this.timeoutMs = options.timeoutMs ?? DEFAULT_TIMEOUT_MS;
  }

  /** For people. */
  get addresses(): string {
    return this.#endpoints.map(({ address }) => address).join(',');
  }

  /** A call that may be made several times. */
  async repeatable<Name extends UnaryName>(name: Name, request: RequestOf<Name>): Promise<ResponseOf<Name>> {
    return await this.attempt((endpoint, options) => endpoint.call(name, request, options));
  }

  /** A call that is made at most once. Throws 'unreachable' or 'refused': nothing was done; or 'unknown'. */
  async once<Name extends UnaryName>(name: Name, request: RequestOf<Name>): Promise<ResponseOf<Name>> {
    return await this.#run((endpoint, options) => endpoint.call(name, request, options), false);
  }

  /** `make` with one server after the other, until it succeeds, is refused, or time is over. */
  async attempt<T>(make: Attempt<T>): Promise<T> {
    return await this.#run(make, true);
  }

  /** Opens a watch; `leave` says that it went wrong, so that the next one asks another server. */
  async watch(): Promise<{ stream: EtcdStream<'Watch'>; leave: (isSilent: boolean) => void }> {
    return await this.attempt(async (endpoint, { token }) => ({
      stream: endpoint.stream('Watch', token),
      leave: (isSilent) => this.#leave(endpoint, isSilent),
    }));
  }

  /** The next call takes a new token. */
  forgetToken(): void {
    this.#token = undefined;
  }

  close(): void {
    this.#isClosed = true;
    for (const endpoint of this.#endpoints) endpoint.close();
  }

  async #run<T>(make: Attempt<T>, mayRepeat: boolean): Promise<T> {
    const deadline = performance.now() + this.timeoutMs;
    const leftMs = (): number => Math.max(1, Math.round(deadline - performance.now()));
    let tokensLeft = TOKEN_LIMIT;
    for (let failures = 0; ; ) {
      if (this.#isClosed) throw storeClosed();
      const endpoint = this.#endpoint();
      const sliceMs = Math.min(leftMs(), this.#sliceMs());
      let used: Promise<string | undefined> | undefined;
      let wasReady = false;
      try {
        await endpoint.ready(sliceMs);
        const token = await this.#tokenFrom(endpoint, sliceMs);
        if (this.#isClosed) throw storeClosed();
        used = this.#token;
        wasReady = true;
        return await make(endpoint, { timeoutMs: mayRepeat ? sliceMs : leftMs(), token });
      } catch (error) {
        if (this.#isClosed && !wasReady) throw storeClosed();
        if (!(error instanceof EtcdCallError)) throw error;
        if (this.#isTokenProblem(error) && tokensLeft > 0) {
          tokensLeft -= 1;
          if (this.#token === used) this.forgetToken();
          continue;
        }
        if (error.kind === 'refused' || error.kind === 'badToken') throw error;
        this.#leave(endpoint, error.status === status.DEADLINE_EXCEEDED);
        if (wasReady && !mayRepeat) throw error;
        failures += 1;
        if (deadline - performance.now() < PAUSE_MS) throw error;
        if (failures % this.#endpoints.length === 0) await sleep(PAUSE_MS);
      }
    }
  }

  #endpoint(): Endpoint {
    const endpoint = this.#endpoints[this.#current % this.#endpoints.length];
    invariant(endpoint, 'the index is within the list');
    return endpoint;
  }

  /** With several servers one that is silent must leave time for another. */
  #sliceMs(): number {
    return this.#endpoints.length === 1 ? this.timeoutMs : this.timeoutMs / 3;
  }

  #leave(endpoint: Endpoint, isSilent: boolean): void {
    if (this.#isClosed) return;
    if (isSilent) endpoint.reconnect();
    if (this.#endpoint() === endpoint) this.#current += 1;
  }

  #isTokenProblem(error: EtcdCallError): boolean {
    // Authentication was switched on after we had found it off.
    return (
      error.kind === 'badToken' || (this.#user !== undefined && /user name is empty/.test(error.message))
    );
  }

  /** Callers share one request for a token. */
  async #tokenFrom(endpoint: Endpoint, timeoutMs: number): Promise<string | undefined> {
    const user = this.#user;
    if (user === undefined) return undefined;
    this.#token ??= authenticate(endpoint, user, timeoutMs);
    const asked = this.#token;
    try {
      return await asked;
    } catch (error) {
      if (this.#token === asked) this.#token = undefined;
      throw error;
    }
  }
}

export function storeClosed(): HoldfastError {
  return new HoldfastError('UNAVAILABLE', 'The store is closed: the daemon is stopping.');
}

/** undefined where etcd runs without authentication. Its errors never concern the request that needs the token. */
async function authenticate(
  endpoint: Endpoint,
  user: { readonly name: string; readonly password: string },
  timeoutMs: number,
): Promise<string | undefined> {
  try {
    const answer = await endpoint.call('Authenticate', user, { timeoutMs, token: undefined });
    return answer.token;
  } catch (error) {
    if (!(error instanceof EtcdCallError)) throw error;
    if (/authentication is not enabled/.test(error.message)) return undefined;
    if (error.kind === 'refused') throw error;
    throw new EtcdCallError('unreachable', error.status, error.message, error);
  }
}

function channelCredentials(tls: EtcdClientOptions['tls']): ChannelCredentials {
  if (tls === undefined) return credentials.createInsecure();
  const read = (path: string | undefined, option: string): Buffer | null => {
    if (path === undefined) return null;
    try {
      return readFileSync(path);
    } catch (error) {
      throw new HoldfastError('INVALID', `--${option}: ${path} cannot be read: ${errorText(error)}`, {
        cause: error,
      });
    }
  };
  try {
    return credentials.createSsl(
      read(tls.ca, 'store-ca'),
      read(tls.key, 'store-key'),
      read(tls.cert, 'store-cert'),
    );
  } catch (error) {
    if (error instanceof HoldfastError) throw error;
    throw new HoldfastError(
      'INVALID',
      `The files of --store-ca, --store-cert and --store-key are not what TLS takes (${errorText(error)}): PEM files, the key without a password.`,
      { cause: error },
    );
  }
}
