// One etcd server: a connection that is made when it is needed, and calls over it. Decides nothing: which
// server to ask, and what to make of an error, is the client's.
//
// Invariant: 'unreachable' is said only of a request that was never handed to a connection. grpc-js must not
// repeat requests by itself (its retries are off): a repeated swap would be told that it lost against itself.

import {
  type ChannelCredentials,
  Client,
  type ClientDuplexStream,
  connectivityState,
  Metadata,
  type ServiceError,
  status,
} from '@grpc/grpc-js';
import { callError, EtcdCallError } from './call-error.ts';
import {
  methodOf,
  type RequestOf,
  type ResponseOf,
  type StreamName,
  type Streams,
  type UnaryName,
} from './methods.ts';

export type EtcdStream<Name extends StreamName> = ClientDuplexStream<
  Streams[Name]['request'],
  Streams[Name]['response']
>;

export interface CallOptions {
  readonly timeoutMs: number;
  /** From Authenticate; undefined where there is no authentication. */
  readonly token: string | undefined;
}

const CHANNEL_OPTIONS = {
  'grpc.enable_retries': 0,
  'grpc.enable_http_proxy': 0,
  'grpc.use_local_subchannel_pool': 1,
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 1000,
  // etcd ends connections that ask more often than every 5 seconds.
  'grpc.keepalive_time_ms': 6000,
  'grpc.keepalive_timeout_ms': 4000,
  'grpc.max_receive_message_length': -1,
} as const;
/** How long the reason of a failed connection may take to find. */
const DIAGNOSIS_MS = 500;

export class Endpoint {
  readonly address: string;
  readonly #credentials: ChannelCredentials;
  #client: Client;

  constructor(address: string, credentials: ChannelCredentials) {
    this.address = address;
    this.#credentials = credentials;
    this.#client = this.#connect();
  }

  /** Resolves when there is a connection; 'unreachable' after `timeoutMs`, or at once where it is refused. */
  async ready(timeoutMs: number): Promise<void> {
    const channel = this.#client.getChannel();
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const state = channel.getConnectivityState(true);
      if (state === connectivityState.READY) return;
      if (state === connectivityState.TRANSIENT_FAILURE || state === connectivityState.SHUTDOWN) break;
      const hasChanged = await new Promise<boolean>((resolve) => {
        channel.watchConnectivityState(state, deadline, (error) => resolve(error === undefined));
      });
      if (!hasChanged) break;
    }
    throw new EtcdCallError('unreachable', status.UNAVAILABLE, `${this.address}: ${await this.#reason()}`);
  }

  /** Sends `request` once. */
  async call<Name extends UnaryName>(
    name: Name,
    request: RequestOf<Name>,
    options: CallOptions,
  ): Promise<ResponseOf<Name>> {
    const { path, requestSerialize, responseDeserialize } = methodOf(name);
    const deadline = Date.now() + options.timeoutMs;
    return await new Promise((resolve, reject) => {
      this.#client.makeUnaryRequest(
        path,
        requestSerialize,
        responseDeserialize,
        request,
        metadataOf(options.token),
        { deadline },
        (error, response) => {
          if (error === null) resolve(response as ResponseOf<Name>);
          else reject(callError(error));
        },
      );
    });
  }

  /** Sends `request` on a stream of its own and resolves with the first answer. */
  async ask<Name extends StreamName>(
    name: Name,
    request: Streams[Name]['request'],
    options: CallOptions,
  ): Promise<Streams[Name]['response']> {
    const stream = this.stream(name, options.token);
    const timer = setTimeout(() => stream.cancel(), options.timeoutMs);
    try {
      return await new Promise((resolve, reject) => {
        stream.once('data', resolve);
        stream.on('error', (error: ServiceError) => reject(callError(error)));
        stream.once('end', () => reject(new EtcdCallError('unknown', status.UNAVAILABLE, 'it hung up')));
        stream.write(request);
      });
    } finally {
      clearTimeout(timer);
      stream.cancel();
    }
  }

  /** A stream without a deadline: its user watches it, and cancels it when done. */
  stream<Name extends StreamName>(name: Name, token: string | undefined): EtcdStream<Name> {
    const { path, requestSerialize, responseDeserialize } = methodOf(name);
    const metadata = metadataOf(token);
    // A server that has lost its leader ends the stream: another may have one.
    metadata.set('hasleader', 'true');
    const stream = this.#client.makeBidiStreamRequest(
      path,
      requestSerialize,
      responseDeserialize,
      metadata,
    ) as EtcdStream<Name>;
    // Its reader is told; a stream that was cancelled after its reader had left tells nobody.
    stream.on('error', () => undefined);
    return stream;
  }

  /** Leaves a connection that has gone silent; calls that wait on it keep it until they end. */
  reconnect(): void {
    this.#client.close();
    this.#client = this.#connect();
  }

  close(): void {
    this.#client.close();
  }

  #connect(): Client {
    return new Client(this.address, this.#credentials, CHANNEL_OPTIONS);
  }

  /** Only a call is told why there is no connection; this one does no harm should it get through. */
  async #reason(): Promise<string> {
    try {
      await this.call('Status', {}, { timeoutMs: DIAGNOSIS_MS, token: undefined });
      return 'the connection came too late';
    } catch (error) {
      if (!(error instanceof EtcdCallError) || error.status === status.DEADLINE_EXCEEDED) return 'no answer';
      return error.message
        .replace(/^No connection established\. Last error: (Error: )?/, '')
        .replace(/(\s*\(\d{4}-\d\d-\d\dT[^)]*\))?\.? Resolution note:.*$/s, '');
    }
  }
}

function metadataOf(token: string | undefined): Metadata {
  const metadata = new Metadata();
  if (token !== undefined) metadata.set('token', token);
  return metadata;
}
