// Takes a volume's device through its life in a guest: attach, use, a killed daemon, growth, users that hold
// it, hung requests, removal. Prints what was seen as one JSON object; expectations are in
// test/lab/devices.test.ts. Runs with root's powers on a kernel of its own only.

import { type ChildProcess, execFile, fork, spawn } from 'node:child_process';
import {
  closeSync,
  createWriteStream,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
} from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const DAEMON = fileURLToPath(new URL('device-daemon.ts', import.meta.url));
const DIRECTORY = '/run/holdfast';
const MOUNT = '/run/volume';
const SHORT_PATIENCE_SECONDS = 3;

class Daemon {
  readonly #child: ChildProcess;
  readonly #pending = new Map<number, (answer: unknown) => void>();
  #lastId = 0;

  private constructor(startNumber: number, attachment: number) {
    this.#child = fork(DAEMON, [DIRECTORY, String(startNumber), String(attachment)], {
      stdio: ['ignore', 'inherit', 'pipe', 'ipc'],
    });
    this.#child.stderr?.pipe(createWriteStream('/run/daemon.log', { flags: 'a' }));
    this.#child.on('message', ({ id, value, error }: { id: number; value?: unknown; error?: unknown }) => {
      this.#pending.get(id)?.(error === undefined ? value : { error });
      this.#pending.delete(id);
    });
    this.#child.once('exit', (code, signal) => {
      for (const answer of this.#pending.values())
        answer({ error: `the daemon ended with ${code ?? signal}` });
    });
  }

  static async start(startNumber: number, attachment = 1): Promise<Daemon> {
    const daemon = new Daemon(startNumber, attachment);
    await new Promise((resolve, reject) => {
      daemon.#pending.set(0, resolve);
      daemon.#child.once('exit', (code) => reject(new Error(`the daemon ended with ${code}`)));
    });
    return daemon;
  }

  /** The answer; that of a daemon that is no more is an error. */
  ask(verb: string, argument: unknown = null): Promise<unknown> {
    const id = ++this.#lastId;
    return new Promise((resolve) => {
      this.#pending.set(id, resolve);
      this.#child.send({ id, verb, argument });
    });
  }

  freeze(): void {
    this.#child.kill('SIGSTOP');
  }

  async end(signal: 'SIGKILL' | 'SIGTERM'): Promise<void> {
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    if (signal === 'SIGTERM') {
      await this.ask('stop');
      this.#child.disconnect();
    } else this.#child.kill(signal);
    await ended;
  }
}

/** A process that reads or writes the device past the page cache until it is told to end or fails. */
class Load {
  readonly #child: ChildProcess;
  readonly ended: Promise<number | null>;

  constructor(script: string) {
    this.#child = spawn('bash', ['-c', script], { stdio: ['ignore', 'ignore', 'pipe'] });
    this.ended = new Promise((resolve) => this.#child.once('exit', resolve));
  }

  async end(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.ended;
  }

  /** The exit code, or 'still waiting' after this time. */
  outcome(withinMs: number): Promise<number | null | string> {
    return Promise.race([this.ended, sleep(withinMs, 'still waiting')]);
  }
}

function attribute(index: number, name: string): string | null {
  const path = `/sys/block/nbd${index}/${name}`;
  return existsSync(path) ? readFileSync(path, 'utf8').trim() : null;
}

function queue(index: number): Record<string, string | null> {
  const names = [
    'scheduler',
    'nr_requests',
    'max_sectors_kb',
    'read_ahead_kb',
    'rotational',
    'io_timeout',
    'write_cache',
  ];
  return Object.fromEntries(names.map((name) => [name, attribute(index, `queue/${name}`)]));
}

async function until(condition: () => Promise<boolean> | boolean, timeoutMs: number): Promise<boolean> {
  for (const end = performance.now() + timeoutMs; performance.now() < end; await sleep(100)) {
    if (await condition()) return true;
  }
  return false;
}

/** What was seen, by name; told on standard error as it comes, for the log of a run that stops half way. */
const seen = new Proxy<Record<string, unknown>>(
  {},
  {
    set: (target, name, value) => {
      console.error(`${Math.round(performance.now())} ms ${String(name)}: ${JSON.stringify(value)}`);
      return Reflect.set(target, name, value);
    },
  },
);
const read = (index: number) => `dd if=/dev/nbd${index} of=/dev/null bs=4k count=1 iflag=direct status=none`;
mkdirSync(MOUNT, { recursive: true });

// ---- attach, use
let daemon = await Daemon.start(1);
await daemon.ask('recover', true);
seen['module before'] = existsSync('/sys/module/nbd');
seen['attached'] = await daemon.ask('attach', false);
seen['partitions'] = readFileSync('/sys/module/nbd/parameters/max_part', 'utf8').trim();
seen['queue'] = queue(0);
seen['backend'] = attribute(0, 'backend');
seen['attached again'] = await daemon.ask('attach', false);
await run('mkfs.ext4', ['-q', '/dev/nbd0']);
await run('mount', ['/dev/nbd0', MOUNT]);
seen['detach while mounted'] = await daemon.ask('detach', false);

// ---- the daemon is killed with requests in flight, and started again
const writers = Array.from({ length: 4 }, (_, i) => {
  const file = `${MOUNT}/file${i}`;
  return new Load(
    `while [ ! -e ${MOUNT}/enough ]; do dd if=/dev/zero of=${file} bs=64k count=16 oflag=direct status=none || exit 9; done`,
  );
});
await sleep(1000);
daemon.freeze(); // so that requests reach it and are never answered
await sleep(500);
await daemon.end('SIGKILL');
await sleep(500);
seen['in flight without a daemon'] = Number(attribute(0, 'inflight')?.split(/\s+/)[1]) > 0;
const beforeRecovery = performance.now();
daemon = await Daemon.start(2);
seen['recovered'] = await daemon.ask('recover', true);
seen['recovery took ms'] = Math.round(performance.now() - beforeRecovery);
seen['found after recovery'] = await daemon.ask('find');
await run('touch', [`${MOUNT}/enough`], { timeout: 30_000 });
seen['writers ended with'] = await Promise.all(writers.map((writer) => writer.outcome(30_000)));
seen['pause ms'] = Math.round(performance.now() - beforeRecovery);
seen['queue after recovery'] = queue(0);
seen['still writable'] = /nbd0 \S+ ext4 rw/.test(readFileSync('/proc/mounts', 'utf8'));

// ---- a clean stop loses nothing either; and the watch repairs what breaks while the daemon lives
await daemon.end('SIGTERM');
daemon = await Daemon.start(3);
await daemon.ask('recover', true);
await daemon.ask('end session');
const brokenAt = performance.now();
await run('dd', ['if=/dev/zero', `of=${MOUNT}/repaired`, 'bs=4k', 'count=1', 'oflag=direct'], {
  timeout: 30_000,
});
seen['repaired within ms'] = Math.round(performance.now() - brokenAt);

// ---- growth
seen['grown'] = await daemon.ask('resize', 96 << 20);
seen['size'] = Number(attribute(0, 'size')) * 512;
seen['shrunk'] = await daemon.ask('resize', 64 << 20);
await run('resize2fs', ['/dev/nbd0']);

// ---- users that are no mounts
await run('umount', [MOUNT]);
await run('losetup', ['/dev/loop0', '/dev/nbd0']);
seen['detach while a loop device shows it'] = await daemon.ask('detach', false);
await run('losetup', ['-d', '/dev/loop0']);
await run('dmsetup', ['create', 'stacked', '--table', '0 8 linear /dev/nbd0 0']);
seen['detach while device mapper holds it'] = await daemon.ask('detach', false);
await run('dmsetup', ['remove', 'stacked']);
const raw = '/run/raw';
closeSync(openSync(raw, 'w'));
await run('mount', ['--bind', '/dev/nbd0', raw]);
seen['detach while its file is in a pod'] = await daemon.ask('detach', false);
await run('umount', [raw]);
const pod = new Load(
  `unshare --mount bash -c 'mount --bind /dev/nbd0 ${raw} && touch /run/pod && exec sleep 100'`,
);
await until(() => existsSync('/run/pod'), 10_000);
seen['detach while its file is in a pod elsewhere'] = await daemon.ask('detach', false);
await pod.end();
const opener = new Load('exec 3</dev/nbd0; touch /run/opener; exec sleep 100');
await until(() => existsSync('/run/opener'), 10_000);
seen['detach while a process has it open'] = await daemon.ask('detach', false);
await opener.end();

// ---- a file system that is in no mount table and still there; one that is being written back
await run('mount', ['/dev/nbd0', MOUNT]);
const lingering = new Load(`exec 3>${MOUNT}/lingering; touch /run/lingering; exec sleep 100`);
await until(() => existsSync('/run/lingering'), 10_000);
await run('umount', ['-l', MOUNT]);
seen['detach while a file system lingers'] = await daemon.ask('detach', false);
await lingering.end();
await until(async () => (await daemon.ask('hidden users')) === 0, 10_000);
await run('mount', ['/dev/nbd0', MOUNT]);
await run('dd', ['if=/dev/urandom', `of=${MOUNT}/dirty`, 'bs=1M', 'count=40', 'status=none']);
const sum = async (path: string): Promise<string> => (await run('sha256sum', [path])).stdout.slice(0, 64);
const dirtySum = await sum(`${MOUNT}/dirty`);
const unmounting = new Load(`umount ${MOUNT}`);
await until(() => !readFileSync('/proc/mounts', 'utf8').includes(MOUNT), 10_000);
await until(async () => (await daemon.ask('detach', false)) === null, 60_000);
seen['unmounting ended with'] = await unmounting.outcome(10_000);
await daemon.ask('attach', false);
await run('mount', ['-o', 'ro', '/dev/nbd0', MOUNT]);
seen['what was written back is there'] = (await sum(`${MOUNT}/dirty`)) === dirtySum;
await run('umount', [MOUNT]);

// ---- a resize that fails half way leaves a connection of the usual patience
seen['resize that fails'] = await daemon.ask('resize that fails', SHORT_PATIENCE_SECONDS);
await daemon.end('SIGKILL');
const patient = new Load(read(0));
seen['read without a daemon'] = await patient.outcome((SHORT_PATIENCE_SECONDS + 3) * 1000);
daemon = await Daemon.start(4);
await daemon.ask('recover', true);
seen['the patient read ended with'] = await patient.outcome(30_000);

// ---- a volume that hangs while it is opened for its device
await daemon.end('SIGKILL');
const held = new Load(read(0));
daemon = await Daemon.start(5);
const beforeHang = performance.now();
await daemon.ask('recover while the volume hangs');
seen['recovery beside a hung volume took ms'] = Math.round(performance.now() - beforeHang);
seen['waiting since'] = await daemon.ask('waiting since');
seen['read beside a hung volume'] = await held.outcome(1500);
await daemon.ask('the volume opens');
seen['read of a volume that hung ended with'] = await held.outcome(20_000);
seen['connected then'] = await until(async () => (await daemon.ask('waiting since')) === null, 10_000);
seen['fsck'] = (await run('e2fsck', ['-fn', '/dev/nbd0'])).stderr.includes('error') ? 'errors' : 'clean';
seen['detached'] = await daemon.ask('detach', false);
seen['detached again'] = await daemon.ask('detach', false);
seen['backend after detach'] = attribute(0, 'backend');
seen['records after detach'] = readdirSync(`${DIRECTORY}/devices`);

// ---- read-only
await daemon.ask('open as', 2);
seen['attached read-only'] = await daemon.ask('attach', true);
seen['ro'] = attribute(0, 'ro');
seen['detached by somebody else'] = await daemon.ask('disconnect behind its back', 0);
seen['found then'] = await daemon.ask('find');
await daemon.ask('open as', 3);
seen['attached anew'] = await daemon.ask('attach', false);

// ---- an attachment that is revoked while requests come
await run('mount', ['/dev/nbd0', MOUNT]);
await daemon.ask('open as', 4);
seen['revoked device goes'] = await until(
  async () => ((await daemon.ask('list')) as unknown[]).length === 0,
  15_000,
);
seen['write after revocation'] = await new Load(
  `dd if=/dev/zero of=${MOUNT}/late bs=4k count=1 oflag=direct status=none`,
).outcome(15_000);
await run('umount', ['-l', MOUNT]);

// ---- a device that hangs, and the daemon that finds it no longer current
await daemon.ask('attach', false);
const [hung] = (await daemon.ask('list')) as { index: number }[];
const index = hung?.index ?? -1;
await daemon.end('SIGKILL');
const reader = new Load(read(index));
seen['read of a hung device'] = await reader.outcome(2000);
daemon = await Daemon.start(10, 5);
const beforeRemoval = performance.now();
seen['recovered as not current'] = await daemon.ask('recover', false);
seen['removed within ms'] = Math.round(performance.now() - beforeRemoval);
seen['the hung read ended with'] = await reader.outcome(10_000);
seen['devices left'] = await daemon.ask('list');
seen['backend of the hung one'] = attribute(index, 'backend');

// ---- another daemon's device is left alone
await daemon.ask('attach', false);
await daemon.end('SIGKILL');
await run('rm', ['-r', `${DIRECTORY}/devices`]);
daemon = await Daemon.start(11, 6);
await daemon.ask('recover', false);
const strangers = readdirSync('/sys/block').filter((name) =>
  (attribute(Number(name.slice(3)), 'backend') ?? '').endsWith('/5'),
);
seen['devices of others left alone'] = strangers.length;
await daemon.end('SIGTERM');

console.log(JSON.stringify(seen));
