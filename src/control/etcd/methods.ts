// The calls of etcd's API that we make, as grpc-js wants them: from proto/etcd.proto.

import type { MethodDefinition, ServiceDefinition } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { packageFile } from '../../dataplane/package-files.ts';
import type { AuthClient, KVClient, LeaseClient, MaintenanceClient, WatchRequest } from './messages.ts';
import type { LeaseKeepAliveRequest, LeaseKeepAliveResponse, Sent, WatchResponse } from './messages.ts';

/** One request, one answer. */
export type UnaryCalls = KVClient & LeaseClient & AuthClient & MaintenanceClient;
export type UnaryName = keyof UnaryCalls;
export type RequestOf<Name extends UnaryName> = Parameters<UnaryCalls[Name]>[0];
export type ResponseOf<Name extends UnaryName> = Awaited<ReturnType<UnaryCalls[Name]>>;

/** Streams both ways. */
export interface Streams {
  readonly Watch: { readonly request: Sent<WatchRequest>; readonly response: WatchResponse };
  readonly LeaseKeepAlive: {
    readonly request: Sent<LeaseKeepAliveRequest>;
    readonly response: LeaseKeepAliveResponse;
  };
}
export type StreamName = keyof Streams;

type Method = MethodDefinition<object, object>;

/** 64-bit numbers travel as text: ids of clusters, members and leases do not fit a number. */
const LOAD_OPTIONS = { keepCase: true, longs: String, enums: String, defaults: true } as const;

const methods = new Map<string, Method>();
const definitions = loadSync(packageFile('proto/etcd.proto'), LOAD_OPTIONS);
for (const service of ['KV', 'Watch', 'Lease', 'Auth', 'Maintenance']) {
  const definition = definitions[`etcdserverpb.${service}`] as ServiceDefinition;
  for (const [name, method] of Object.entries(definition)) methods.set(name, method);
}

export function methodOf(name: UnaryName | StreamName): Method {
  const method = methods.get(name);
  if (method === undefined) throw new Error(`proto/etcd.proto has no method ${name}`);
  return method;
}
