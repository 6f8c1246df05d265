// The control API's server: gRPC on a Unix socket that only its owner may open (mode 0600 before anyone can
// connect). It checks every request against its schema and turns what handlers throw into statuses; it
// decides nothing. A socket that a dead daemon left is replaced, a live one is refused.

import {
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServerWritableStream,
  type ServiceError,
  type sendUnaryData,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import type { z } from 'zod';
import { errorText, HoldfastError } from '../core/errors.ts';
import { type BoundSocket, bindUnixSocket } from '../host/unix-socket.ts';
import type { Logger } from '../observe/log.ts';
import { toServiceError } from './api-errors.ts';
import { loadControlApi } from './api-proto.ts';
import {
  type ApiHandlers,
  EXPORT,
  type ExportEvent,
  UNARY,
  UNARY_NAMES,
  type UnaryName,
} from './api-schema.ts';

export interface ApiServer {
  /** Ends the exports, refuses new calls, lets running ones finish for `graceMs`, removes the socket. */
  close(graceMs: number): Promise<void>;
}

const OPTIONS = { 'grpc.max_receive_message_length': 1024 * 1024, 'grpc.max_concurrent_streams': 256 };

function parse<S extends z.ZodType>(schema: S, message: unknown): z.output<S> {
  const result = schema.safeParse(message);
  if (result.success) return result.data;
  const reasons = result.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`).join('; ');
  throw new HoldfastError('INVALID', reasons);
}

function unary<N extends UnaryName>(name: N, handlers: ApiHandlers, log: Logger) {
  const schema: z.ZodType = UNARY[name].request;
  const handle = handlers[name] as (request: unknown) => Promise<unknown>;
  const answer = async (request: unknown): Promise<[Partial<ServiceError> | null, unknown?]> => {
    try {
      return [null, await handle(parse(schema, request))];
    } catch (error) {
      log.debug({ call: name, error }, 'call failed');
      return [toServiceError(error)];
    }
  };
  return (call: ServerUnaryCall<unknown, unknown>, callback: sendUnaryData<unknown>): void =>
    // Nothing rejects but a broken invariant, which is to stop the process.
    void answer(call.request).then((reply) => callback(...reply));
}

function exporting(handlers: ApiHandlers, stopping: AbortSignal, log: Logger) {
  const serve = async (call: ServerWritableStream<unknown, ExportEvent>): Promise<void> => {
    const gone = new AbortController();
    call.once('cancelled', () => gone.abort());
    const signal = AbortSignal.any([gone.signal, stopping]);
    try {
      for await (const event of handlers.ExportVolume(parse(EXPORT.request, call.request), signal)) {
        call.write(event);
      }
      if (stopping.aborted)
        throw new HoldfastError('UNAVAILABLE', 'the daemon was stopped, and the export with it');
      call.end();
    } catch (error) {
      log.debug({ call: 'ExportVolume', error }, 'call failed');
      // grpc-js turns an 'error' of the stream into its status.
      call.emit('error', toServiceError(error));
    }
  };
  return (call: ServerWritableStream<unknown, ExportEvent>): void => void serve(call);
}

function bind(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), (error) => {
      if (error === null) resolve();
      else reject(error);
    });
  });
}

export async function startApiServer(options: {
  path: string;
  handlers: ApiHandlers;
  log: Logger;
}): Promise<ApiServer> {
  const { path, handlers, log } = options;
  const stopping = new AbortController();
  const implementation: UntypedServiceImplementation = {
    ExportVolume: exporting(handlers, stopping.signal, log),
  };
  for (const name of UNARY_NAMES) implementation[name] = unary(name, handlers, log);
  const server = new Server(OPTIONS);
  server.addService(loadControlApi().service, implementation);
  let socket: BoundSocket;
  try {
    const remedy = 'give this daemon its own --data-dir or --api';
    socket = await bindUnixSocket(path, { bind: (bound) => bind(server, bound), remedy });
  } catch (error) {
    server.forceShutdown();
    if (error instanceof HoldfastError) throw error;
    throw new HoldfastError('IO', `the API socket ${path} cannot be made: ${errorText(error)}`, {
      cause: error,
    });
  }

  return {
    async close(graceMs: number): Promise<void> {
      if (stopping.signal.aborted) return;
      // First, so that whoever asks from now on finds no socket instead of a daemon that refuses.
      await socket.remove();
      stopping.abort();
      const drained = new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
      const timer = setTimeout(() => server.forceShutdown(), graceMs);
      await drained;
      clearTimeout(timer);
    },
  };
}
