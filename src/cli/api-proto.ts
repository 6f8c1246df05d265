// proto/holdfast.proto, loaded the same way by both sides.

import { fileURLToPath } from 'node:url';
import { type GrpcObject, loadPackageDefinition, type ServiceClientConstructor } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

/** Field names become camelCase, sizes numbers (below 2^53 by contract), absent fields their defaults. */
export function loadControlApi(): ServiceClientConstructor {
  const path = fileURLToPath(new URL('../../proto/holdfast.proto', import.meta.url));
  const definition = loadSync(path, { longs: Number, defaults: true, arrays: true, objects: true });
  const root = loadPackageDefinition(definition) as unknown as { holdfast: { v1: GrpcObject } };
  return root.holdfast.v1['Holdfast'] as ServiceClientConstructor;
}
