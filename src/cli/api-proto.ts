// proto/holdfast.proto, loaded the same way by both sides.

import { type GrpcObject, loadPackageDefinition, type ServiceClientConstructor } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { packageFile } from '../dataplane/package-files.ts';

/** Field names become camelCase, sizes numbers (below 2^53 by contract), absent fields their defaults. */
export function loadControlApi(): ServiceClientConstructor {
  const path = packageFile('proto/holdfast.proto');
  const definition = loadSync(path, { longs: Number, defaults: true, arrays: true, objects: true });
  const root = loadPackageDefinition(definition) as unknown as { holdfast: { v1: GrpcObject } };
  return root.holdfast.v1['Holdfast'] as ServiceClientConstructor;
}
