// The smallest daemon with devices: node storage, one volume and NbdDevices, driven over Node's IPC channel by
// devices.ts. It is its own process because the tests kill it.

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { createNodeStorage } from '../../src/dataplane/create-storage.ts';
import { type Native, native } from '../../src/dataplane/native.ts';
import { hiddenUsers } from '../../src/host/device-users.ts';
import { NbdDevices } from '../../src/host/nbd-devices.ts';
import { createLogger } from '../../src/observe/log.ts';
import { MIB } from '../../src/core/units.ts';
import { LONE_NODE, LoneVolumes, MemoryConfigs } from '../support/lone-volumes.ts';

const VOLUME_ID = '0123456789abcdef0123456789abcdef';
const SIZE_BYTES = 64 * MIB;

const [directory = '', startNumber = '1', attachment = '1'] = process.argv.slice(2);
const poolDirectory = join(directory, 'pool');
mkdirSync(poolDirectory, { recursive: true });
const log = createLogger({ level: 'info', node: 'guest' });
const storage = await createNodeStorage({
  nodeName: LONE_NODE,
  pools: [{ name: 'default', directory: poolDirectory, ioMode: 'buffered', overcommitRatio: 10 }],
  threadCount: 1,
  busyPollMicros: 0,
  testFaults: new Set(),
  onEvent: (event) => log.info({ event }),
  onDeath: (error) => {
    throw error;
  },
});
if ((await storage.replica(VOLUME_ID)) === undefined) {
  await storage.createReplica({
    volumeId: VOLUME_ID,
    volumeName: 'test',
    replicaId: 'a'.repeat(32),
    pool: 'default',
    sizeBytes: SIZE_BYTES,
    lineage: 'b'.repeat(32),
    epoch: 1,
    durability: 'writeback',
    failureMode: 'soft',
  });
}
const volumes = await LoneVolumes.join(storage, new MemoryConfigs(), Number(startNumber));
const volumeOpens = Promise.withResolvers<void>();
let attachmentNumber = Number(attachment);

async function open(number: number): Promise<void> {
  attachmentNumber = number;
  await volumes.open(VOLUME_ID, number);
}

const devices = new NbdDevices({ storage, log, recordDirectory: join(directory, 'devices') });
await open(attachmentNumber);

/** The kernel is asked for everything but the new size itself; its short patience is made shorter for the test. */
async function resizeThatFails(shortPatienceSeconds: number): Promise<number[]> {
  const { nbdReconfigure } = native;
  const patience: number[] = [];
  const failing: Native['nbdReconfigure'] = async (options) => {
    if (options.sizeBytes > 0) throw new Error('the size is refused');
    const isShort = options.deadConnectionTimeoutSeconds < 3600;
    const deadConnectionTimeoutSeconds = isShort
      ? shortPatienceSeconds
      : options.deadConnectionTimeoutSeconds;
    patience.push(deadConnectionTimeoutSeconds);
    await nbdReconfigure({ ...options, deadConnectionTimeoutSeconds });
  };
  Object.assign(native, { nbdReconfigure: failing });
  try {
    await devices.resize(VOLUME_ID, 2 * (devices.find(VOLUME_ID)?.sizeBytes ?? 0));
  } catch {
    // as it should
  } finally {
    Object.assign(native, { nbdReconfigure });
  }
  return patience;
}

const verbs: Record<string, (argument: never) => unknown> = {
  recover: (isCurrent: boolean) =>
    devices.recover(async (volumeId) => (isCurrent && volumeId === VOLUME_ID ? 'current' : 'over')),
  'recover while the volume hangs': () =>
    devices.recover(
      async () => 'current',
      () => volumeOpens.promise,
    ),
  'the volume opens': () => volumeOpens.resolve(),
  'waiting since': () => devices.waitingSince(VOLUME_ID) ?? null,
  attach: async (readOnly: boolean) => {
    const sizeBytes = (await storage.replica(VOLUME_ID))?.superblock?.sizeBytes ?? 0;
    return await devices.attach(VOLUME_ID, attachmentNumber, sizeBytes, readOnly);
  },
  detach: (force: boolean) => devices.detach(VOLUME_ID, { force }),
  find: () => devices.find(VOLUME_ID) ?? null,
  list: () => devices.list(),
  resize: async (sizeBytes: number) => {
    await volumes.resize(VOLUME_ID, sizeBytes);
    await devices.resize(VOLUME_ID, sizeBytes);
  },
  'hidden users': async () => (await hiddenUsers('/dev/nbd0', '43:0')).length,
  'resize that fails': resizeThatFails,
  'open as': open,
  'end session': () => storage.disconnectKernel(VOLUME_ID),
  'disconnect behind its back': (index: number) => native.nbdDisconnect(index),
  stop: async () => {
    await devices.release();
    await storage.close();
  },
};

process.on('message', ({ id, verb, argument }: { id: number; verb: string; argument: never }) => {
  const perform = async (): Promise<unknown> => (await verbs[verb]?.(argument)) ?? null;
  void perform().then(
    (value) => process.send?.({ id, value }),
    (error: { code?: string; message: string }) =>
      process.send?.({ id, error: { code: error.code, message: error.message } }),
  );
});
process.on('disconnect', () => process.exit());
process.send?.({ id: 0 });
