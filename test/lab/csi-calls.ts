// Calls a CSI plugin on the machine where it listens: one process makes several calls, one after the other.
//
//   node csi-calls.ts SOCKET JSON        prints the responses as a JSON array, ends with 1 at the first error

import { join } from 'node:path';
import { credentials, loadPackageDefinition, type ServiceError } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { type Machine, mustRun } from './machine.ts';

export interface CsiCall {
  readonly service: 'Identity' | 'Controller' | 'Node';
  readonly method: string;
  readonly request: Readonly<Record<string, unknown>>;
}

/** Makes the calls on `machine`; returns their responses. Rejects with the first call's error. */
export async function csiCalls(
  machine: Machine,
  socketPath: string,
  calls: readonly CsiCall[],
): Promise<Record<string, unknown>[]> {
  const argv = ['node', import.meta.filename, socketPath, JSON.stringify(calls)];
  return JSON.parse(await mustRun(machine, argv, { timeoutMs: 180_000 })) as Record<string, unknown>[];
}

const CALL_TIMEOUT_MS = 120_000;

type Method = (
  request: unknown,
  options: { deadline: number },
  callback: (error: ServiceError | null, response: unknown) => void,
) => void;
type Client = Record<string, Method>;
type ClientClass = new (address: string, ...rest: unknown[]) => Client;

async function main(socketPath: string, calls: readonly CsiCall[]): Promise<void> {
  const definition = loadSync(join(import.meta.dirname, '../../proto/csi.proto'), {
    keepCase: true,
    longs: Number,
    enums: String,
    defaults: true,
  });
  const { csi } = loadPackageDefinition(definition) as unknown as {
    csi: { v1: Record<string, ClientClass> };
  };
  const responses: unknown[] = [];
  for (const { service, method, request } of calls) {
    const Service = csi.v1[service];
    if (Service === undefined) throw new Error(`no service ${service}`);
    const client = new Service(`unix:${socketPath}`, credentials.createInsecure(), {
      'grpc.default_authority': 'localhost',
    });
    const response = await new Promise((resolve, reject) => {
      client[method]?.(request, { deadline: Date.now() + CALL_TIMEOUT_MS }, (error, answer) =>
        error === null ? resolve(answer) : reject(new Error(`${method}: ${error.message}`)),
      );
    });
    responses.push(response);
  }
  process.stdout.write(JSON.stringify(responses), () => process.exit(0));
}

if (import.meta.main) {
  const [socketPath = '', json = '[]'] = process.argv.slice(2);
  await main(socketPath, JSON.parse(json) as CsiCall[]);
}
