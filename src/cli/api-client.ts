// The CLI's side of the control API. Every answer is checked against its schema, every call has a
// deadline except an export, which lasts as long as its process.

import { type CallOptions, type ClientReadableStream, credentials, type ServiceError } from '@grpc/grpc-js';
import { fromServiceError } from './api-errors.ts';
import { loadControlApi } from './api-proto.ts';
import {
  EXPORT,
  type ExportEvent,
  type ExportRequest,
  type Request,
  type Response,
  UNARY,
  type UnaryName,
} from './api-schema.ts';

/** A delete or resize may wait for a data-plane thread to drain; nothing takes longer than this. */
const DEADLINE_MS = 120_000;
const OPTIONS = {
  'grpc.max_receive_message_length': 64 * 1024 * 1024,
  // No proxy and no DNS between two processes of one machine.
  'grpc.enable_http_proxy': 0,
  'grpc.default_authority': 'localhost',
  // Whoever waits for a starting daemon looks again soon; the library's own first pause is a second.
  'grpc.initial_reconnect_backoff_ms': 100,
  'grpc.max_reconnect_backoff_ms': 500,
};

type UnaryMethod = (
  request: unknown,
  options: CallOptions,
  callback: (error: ServiceError | null, response: unknown) => void,
) => void;

export interface ApiClient {
  call<N extends UnaryName>(name: N, request: Request<N>): Promise<Response<N>>;
  /** Yields the event that says the socket is there, then waits for the end. Aborting ends the export. */
  exportVolume(request: ExportRequest, signal: AbortSignal): AsyncIterable<ExportEvent>;
  close(): void;
}

export function connectApi(path: string): ApiClient {
  const Client = loadControlApi();
  const client = new Client(`unix:${path}`, credentials.createInsecure(), OPTIONS);

  return {
    call<N extends UnaryName>(name: N, request: Request<N>): Promise<Response<N>> {
      return new Promise((resolve, reject) => {
        const method = client[name] as UnaryMethod;
        method.call(client, request, { deadline: Date.now() + DEADLINE_MS }, (error, response) => {
          if (error !== null) return reject(fromServiceError(error, path));
          const result = UNARY[name].response.safeParse(response);
          if (result.success) resolve(result.data as Response<N>);
          else reject(result.error);
        });
      });
    },

    async *exportVolume(request: ExportRequest, signal: AbortSignal): AsyncIterable<ExportEvent> {
      const method = client['ExportVolume'] as (request: unknown) => ClientReadableStream<unknown>;
      const stream = method.call(client, request);
      const cancel = (): void => stream.cancel();
      signal.addEventListener('abort', cancel, { once: true });
      try {
        for await (const event of stream) yield EXPORT.event.parse(event);
      } catch (error) {
        if (!signal.aborted) throw fromServiceError(error as ServiceError, path);
      } finally {
        signal.removeEventListener('abort', cancel);
        stream.cancel();
      }
    },

    close(): void {
      client.close();
    },
  };
}
