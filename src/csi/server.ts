// The CSI endpoint: gRPC on a Unix socket. It joins the three services and passes every call through
// `Calls`; it decides nothing else. Calls that later versions bring answer UNIMPLEMENTED (grpc-js does that
// for methods without a handler).
//
// kubelet, the sidecars and csi-sanity send `:authority` localhost. Clients before Kubernetes 1.26 sent the
// socket's path, which Node's HTTP/2 refuses: hence the floor stated in docs/csi.md.

import { setTimeout } from 'node:timers/promises';
import {
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServiceDefinition,
  type sendUnaryData,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { errorText, HoldfastError } from '../core/errors.ts';
import { packageFile } from '../dataplane/package-files.ts';
import type { InvariantError } from '../core/invariant.ts';
import type { VolumeService } from '../control/volume-service.ts';
import type { DeviceService } from '../host/device-service.ts';
import { bindUnixSocket } from '../host/unix-socket.ts';
import type { Logger } from '../observe/log.ts';
import { Calls } from './calls.ts';
import { createController } from './controller.ts';
import { createIdentity, DEFAULT_DRIVER_NAME } from './identity.ts';
import { createNode } from './node.ts';

export interface CsiServerOptions {
  readonly socketPath: string;
  /** Default: csi.holdfast.dev. */
  readonly driverName?: string;
  readonly version: string;
  /** The node's name: its CSI node id and the value of its topology key. */
  readonly node: string;
  readonly volumes: VolumeService;
  /** Several nodes share the store. */
  readonly inCluster?: boolean;
  /** Opens what it attaches (HeldDevices). */
  readonly devices: DeviceService;
  /** What NodeGetInfo reports; VolumeService enforces the same number. */
  readonly maxVolumesPerNode: number;
  readonly log: Logger;
  /** Why nothing can be served now (the store is away, …); Probe answers with it. */
  readonly problem?: () => Promise<string | undefined>;
  readonly answerTimeoutMs?: number;
  /** Default: the error is thrown where only the process's own handler sees it. */
  readonly onBroken?: (error: InvariantError) => void;
}

export interface CsiServer {
  /** Removes the socket, refuses new calls, lets running ones finish for `graceMs`. Twice does no harm. */
  close(graceMs: number): Promise<void>;
}

const GRPC_OPTIONS = { 'grpc.max_receive_message_length': 1024 * 1024 };
const LOAD_OPTIONS = { keepCase: true, longs: Number, enums: String, defaults: true } as const;

/** CONFLICT when another daemon answers at the socket; INVALID for a driver name that Kubernetes would refuse. */
export async function startCsiServer(options: CsiServerOptions): Promise<CsiServer> {
  const { socketPath, log, node, volumes, devices, maxVolumesPerNode, answerTimeoutMs } = options;
  const calls = new Calls({ log, answerTimeoutMs, onBroken: options.onBroken ?? throwOutside });
  const definitions = loadSync(packageFile('proto/csi.proto'), LOAD_OPTIONS);
  const server = new Server(GRPC_OPTIONS);
  const add = (service: string, methods: object): void =>
    server.addService(definitions[`csi.v1.${service}`] as ServiceDefinition, handlersOf(methods, calls));
  add(
    'Identity',
    createIdentity({
      driverName: options.driverName ?? DEFAULT_DRIVER_NAME,
      version: options.version,
      problem: options.problem ?? (async () => undefined),
    }),
  );
  add('Controller', createController({ node, volumes, inCluster: options.inCluster }));
  add('Node', createNode({ node, volumes, devices, maxVolumesPerNode }));

  const socket = await bindUnixSocket(socketPath, {
    bind: async (path) => await bind(server, path),
    remedy: 'give this daemon its own --csi',
  }).catch((error: unknown) => {
    server.forceShutdown();
    throw error instanceof HoldfastError
      ? error
      : new HoldfastError('IO', `the CSI socket ${socketPath} cannot be made: ${errorText(error)}`, {
          cause: error,
        });
  });
  log.info({ socketPath }, 'serving CSI');

  let closed: Promise<void> | undefined;
  const close = async (graceMs: number): Promise<void> => {
    await socket.remove();
    const answered = new Promise<void>((resolve) => server.tryShutdown(() => resolve()));
    // Work goes on after its caller gave up, too.
    const drained = Promise.all([answered, calls.drained()]);
    const timer = new AbortController();
    await Promise.race([drained, setTimeout(graceMs, undefined, { signal: timer.signal })]);
    timer.abort();
    server.forceShutdown();
  };
  return {
    close: (graceMs) => (closed ??= close(graceMs)),
  };
}

function handlersOf(methods: object, calls: Calls): UntypedServiceImplementation {
  const implementation: UntypedServiceImplementation = {};
  for (const [name, method] of Object.entries(methods) as [string, (request: object) => Promise<unknown>][]) {
    implementation[name] = (
      call: ServerUnaryCall<object, unknown>,
      callback: sendUnaryData<unknown>,
    ): void => {
      const work = async (): Promise<unknown> => await method(call.request);
      // `run` never rejects.
      void calls.run(name, call.request, work).then((outcome) => {
        if ('reply' in outcome) callback(null, outcome.reply);
        else callback(outcome);
      });
    };
  }
  return implementation;
}

async function bind(server: Server, path: string): Promise<void> {
  return await new Promise((resolve, reject) => {
    server.bindAsync(`unix:${path}`, ServerCredentials.createInsecure(), (error) => {
      if (error === null) resolve();
      else reject(error);
    });
  });
}

function throwOutside(error: InvariantError): void {
  setImmediate(() => {
    throw error;
  });
}
