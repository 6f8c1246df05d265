// A data plane whose kernel or file systems fail in one way, with one volume in one pool.

import { join } from 'node:path';
import { createNodeStorage } from '../../src/dataplane/create-storage.ts';
import type { Storage } from '../../src/dataplane/storage.ts';
import { LONE_NODE } from '../support/lone-volumes.ts';

export const VOLUME = '0'.repeat(32);

export async function faultyStorage(
  directory: string,
  ioMode: 'direct' | 'buffered',
  fault: string,
): Promise<Storage> {
  return await createNodeStorage({
    nodeName: LONE_NODE,
    pools: [
      { name: 'p', directory: join(directory, 'pool'), ioMode, reserveBytes: 0, overcommitRatio: 1000 },
    ],
    threadCount: 1,
    busyPollMicros: 0,
    testFaults: new Set([fault]),
    onEvent: () => undefined,
    onDeath: (error) => {
      throw error;
    },
  });
}

export async function makeVolume(storage: Storage, sizeBytes: number): Promise<void> {
  await storage.createReplica({
    volumeId: VOLUME,
    volumeName: 'volume',
    replicaId: 'replica',
    pool: 'p',
    sizeBytes,
    lineage: 'lineage',
    epoch: 1,
    durability: 'writeback',
    failureMode: 'soft',
  });
}
