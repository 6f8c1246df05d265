// Drives the addon's NBD commands against the kernel of a guest and prints, as one JSON object, what each
// step showed. The expectations are in test/lab/nbd-commands.test.ts.

import { execFile } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { type NbdReconfigureOptions, native } from '../../src/dataplane/native.ts';
import { disconnectDevice } from '../../src/host/nbd-kernel.ts';
import { MemoryDisk } from './memory-disk.ts';

const run = promisify(execFile);
const SIZE_BYTES = 8 << 20;
/** HAS_FLAGS | SEND_FLUSH | SEND_FUA */
const SERVER_FLAGS = 1 | 4 | 8;
const SETTINGS = { deadConnectionTimeoutSeconds: 3600, backendIdentifier: 'volume/1' };

const disk = new MemoryDisk(SIZE_BYTES * 2);
disk.bytes.write('contents of the disk');

/** The kernel's end of a fresh connection to the disk. */
function connectDisk(): number {
  const [kernelEnd, diskEnd] = native.socketPair(1 << 20);
  disk.serve(diskEnd);
  return kernelEnd;
}

async function outcome(call: Promise<unknown>): Promise<unknown> {
  try {
    return { ok: (await call) ?? null };
  } catch (error) {
    const { code, syscall, message } = error as NodeJS.ErrnoException;
    return { code, syscall, message };
  }
}

async function connect(index: number, backendIdentifier = SETTINGS.backendIdentifier): Promise<unknown> {
  const fd = connectDisk();
  const result = await outcome(
    native.nbdConnect({
      ...SETTINGS,
      timeoutSeconds: 0,
      index,
      sizeBytes: SIZE_BYTES,
      blockSizeBytes: 4096,
      serverFlags: SERVER_FLAGS,
      backendIdentifier,
      socketFds: [fd],
    }),
  );
  native.close(fd);
  return result;
}

async function reconfigure(change: Partial<NbdReconfigureOptions>): Promise<unknown> {
  const fd = connectDisk();
  const result = await outcome(
    native.nbdReconfigure({ ...SETTINGS, index: 0, sizeBytes: 0, socketFds: [fd], ...change }),
  );
  native.close(fd);
  return result;
}

function attribute(index: number, name: string): string | undefined {
  const path = `/sys/block/nbd${index}/${name}`;
  return existsSync(path) ? readFileSync(path, 'utf8').trim() : undefined;
}

async function read(index: number): Promise<string> {
  const args = [`if=/dev/nbd${index}`, 'bs=4096', 'count=1', 'iflag=direct', 'status=none'];
  const { stdout } = await run('dd', args, { encoding: 'latin1', timeout: 20_000 });
  return stdout.slice(0, 20);
}

const seen: Record<string, unknown> = {};
seen['status before'] = await outcome(native.nbdStatus(0));
seen['connect'] = await connect(0);
seen['status'] = await outcome(native.nbdStatus(0));
seen['backend'] = attribute(0, 'backend');
seen['sectors'] = attribute(0, 'size');
seen['block size'] = attribute(0, 'queue/logical_block_size');
seen['write cache'] = attribute(0, 'queue/write_cache');
seen['read'] = await read(0);
seen['connect again'] = await connect(0);
seen['connect anywhere'] = await connect(-1, 'other/1');
seen['all'] = await outcome(native.nbdStatus(-1));

// While the server is dead a read waits; it is answered by the next server.
disk.drop();
const waiting = read(0);
await sleep(1000);
seen['answered without a server'] = await Promise.race([waiting, sleep(0, 'not')]);
seen['reconfigure as another'] = await reconfigure({ backendIdentifier: 'volume/2' });
seen['reconfigure as nobody'] = await reconfigure({ backendIdentifier: '' });
seen['reconfigure'] = await reconfigure({});
seen['read after reconfigure'] = await waiting;

// A live socket is not replaced: the kernel says yes and leaves the new one aside.
const before = disk.connectionCount;
seen['reconfigure a live device'] = await reconfigure({});
await sleep(200);
seen['connections taken then'] = disk.connectionCount - before;

seen['resize'] = await reconfigure({ sizeBytes: SIZE_BYTES * 2, socketFds: [] });
seen['sectors after resize'] = attribute(0, 'size');
seen['disconnect'] = await outcome(native.nbdDisconnect(0));
seen['disconnect again'] = await outcome(native.nbdDisconnect(0));
seen['status after'] = await outcome(native.nbdStatus(0));
seen['backend after'] = attribute(0, 'backend') ?? null;
seen['reconfigure after'] = await reconfigure({});
seen['bad socket'] = await outcome(
  native.nbdConnect({
    ...SETTINGS,
    timeoutSeconds: 0,
    index: 2,
    sizeBytes: SIZE_BYTES,
    blockSizeBytes: 4096,
    serverFlags: SERVER_FLAGS,
    socketFds: [1 << 20],
  }),
);
seen['disconnect unknown'] = await outcome(native.nbdDisconnect(4000));
await native.nbdDisconnect(1);

// What a dead connection took with it comes again as soon as the queue's timer looks, not after 30 s.
seen['connect for a resend'] = await connect(0);
writeFileSync('/sys/block/nbd0/queue/io_timeout', '1000');
disk.hangs = true;
const lost = read(0);
await sleep(500);
disk.drop();
disk.hangs = false;
await sleep(500);
const reconfiguredAt = native.bootTimeMs();
await reconfigure({});
seen['read that was lost'] = await lost;
seen['resent within ms'] = native.bootTimeMs() - reconfiguredAt;
seen['io_timeout after reconfigure'] = attribute(0, 'queue/io_timeout');
await native.nbdDisconnect(0);

// A server that reads nothing holds the kernel's send, and the send a disconnect, until the socket is ended.
const [stuckEnd, diskEnd] = native.socketPair(1 << 16);
disk.serve(diskEnd);
await native.nbdConnect({
  ...SETTINGS,
  timeoutSeconds: 0,
  index: 0,
  sizeBytes: SIZE_BYTES,
  blockSizeBytes: 4096,
  serverFlags: SERVER_FLAGS,
  socketFds: [stuckEnd],
});
disk.stall();
const stuckWrite = run('dd', ['if=/dev/zero', 'of=/dev/nbd0', 'bs=1M', 'count=2', 'oflag=direct']);
const writeOutcome = outcome(stuckWrite);
await sleep(500);
const disconnectedAt = native.bootTimeMs();
seen['disconnect of a stuck device'] = await outcome(disconnectDevice(0, stuckEnd));
seen['disconnected within ms'] = native.bootTimeMs() - disconnectedAt;
seen['write to it'] = ((await writeOutcome) as { message: string }).message;
native.close(stuckEnd);
console.log(JSON.stringify(seen));
