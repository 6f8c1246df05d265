// Our data plane serving one volume, as a process of its own: its memory and descriptors can be watched,
// and it dies alone. Started by startHoldfast() with a channel; answers 'counters' until 'stop'.

import { randomBytes } from 'node:crypto';
import { createNodeStorage } from '../../src/dataplane/create-storage.ts';
import type { ThreadCounters } from '../../src/dataplane/thread-messages.ts';
import type { VolumeCounters } from '../../src/dataplane/node-storage.ts';
import { LONE_NODE, LoneVolumes } from './lone-volumes.ts';

export interface ServerProcessOptions {
  readonly directory: string;
  readonly socketPath: string;
  readonly exportName: string;
  readonly sizeBytes: number;
  readonly ioMode: 'direct' | 'buffered';
  /** 32 hex digits: a volume that an earlier process may have made. */
  readonly volumeId?: string;
  readonly runDirectory?: string;
}

export interface ServerProcessCounters {
  readonly volume: VolumeCounters;
  readonly thread: ThreadCounters;
}

const options = JSON.parse(process.argv[2] ?? '') as ServerProcessOptions;
const volumeId = options.volumeId ?? randomBytes(16).toString('hex');
const storage = await createNodeStorage({
  nodeName: LONE_NODE,
  runDirectory: options.runDirectory,
  pools: [
    {
      name: 'pool',
      directory: options.directory,
      ioMode: options.ioMode,
      reserveBytes: 0,
      overcommitRatio: 1000,
    },
  ],
  threadCount: 1,
  busyPollMicros: 0,
  testFaults: new Set(),
  onEvent: () => undefined,
  onDeath: (error) => {
    process.stderr.write(`${error.stack ?? error.message}\n`);
    process.exit(1);
  },
});
await storage.createReplica({
  volumeId,
  volumeName: options.exportName,
  replicaId: volumeId,
  pool: 'pool',
  sizeBytes: options.sizeBytes,
  lineage: volumeId,
  epoch: 1,
  durability: 'writeback',
  failureMode: 'soft',
});
const volumes = await LoneVolumes.join(storage);
await volumes.open(volumeId);
const handle = await storage.exportUnix(volumeId, options.exportName, options.socketPath);

async function counters(): Promise<ServerProcessCounters> {
  const [thread] = await storage.threadCounters();
  if (thread === undefined) throw new Error('there is one thread');
  return { volume: await storage.counters(volumeId), thread };
}

async function stop(): Promise<void> {
  await handle.close();
  await storage.close();
  process.disconnect();
}

process.on('message', (message) => {
  if (message === 'stop') void stop();
  else void counters().then((answer) => process.send?.(answer));
});
process.send?.('ready');
