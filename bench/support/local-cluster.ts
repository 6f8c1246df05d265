// Two lab guests with a daemon and a copy each, etcd on this machine beside them, and a device of the volume on the first
// guest, whose daemon has a supervisor that starts it again at once.

import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';
import { HOLDFAST, LabDaemon } from '../../test/lab/daemon.ts';
import { Guest } from '../../test/lab/guest.ts';
import { HostStore } from '../../test/lab/host-store.ts';
import { type Job, mustRun } from '../../test/lab/machine.ts';
import { LabNetwork } from '../../test/lab/network.ts';

const VOLUME = 'bench';
const PORT = 7400;
const GUEST_LIFE_MS = 3600_000;
const START_MS = 120_000;
const API = '/run/api.sock';
const PID_FILE = '/run/daemon.pid';

const shownSchema = z.object({ primary: z.string(), inSync: z.array(z.string()) });
export type Shown = z.infer<typeof shownSchema>;

const lineSchema = z.looseObject({ time: z.string(), msg: z.string() });
export type LogLine = z.infer<typeof lineSchema>;

export interface LocalClusterOptions {
  /** Of this machine, and of both guests under the same path. */
  readonly directory: string;
  readonly size: string;
  /** Behind the pool's directory: ',io=direct'. */
  readonly poolOptions?: string;
  /** More flags, of both daemons. */
  readonly flags?: readonly string[];
  /** bin/holdfast of both daemons, if it is not that of the sources. */
  readonly program?: string;
}

export class LocalCluster implements AsyncDisposable {
  readonly user: Guest;
  readonly other: Guest;
  readonly device: string;
  readonly #resources: AsyncDisposableStack;
  readonly #peer: LabDaemon;
  readonly #supervisor: Job;

  static async start({
    directory,
    size,
    poolOptions = '',
    flags = [],
    program,
  }: LocalClusterOptions): Promise<LocalCluster> {
    await using resources = new AsyncDisposableStack();
    const network = resources.use(await LabNetwork.create({ hasHost: true }));
    const store = resources.use(await HostStore.start(network, join(directory, 'etcd')));
    execFileSync(HOLDFAST, ['cluster', 'keygen', join(directory, 'key')]);
    const boot = async (name: string): Promise<Guest> => {
      const disk = join(directory, `${name}.disk`);
      execFileSync('truncate', ['--size=2G', disk]);
      const guest = resources.use(
        await Guest.start({
          name,
          memoryMib: 1024,
          modules: ['nbd max_part=0 nbds_max=8'],
          disks: [disk],
          shared: [directory],
          network,
          timeoutMs: GUEST_LIFE_MS,
        }),
      );
      await mustRun(guest, 'mkfs.ext4 -q /dev/ubda && mkdir /mnt/disk && mount /dev/ubda /mnt/disk');
      await store.reachedFrom(guest);
      return guest;
    };
    const [user, other] = [await boot('a'), await boot('b')];
    const env = { NODE_COMPILE_CACHE: join(directory, 'compile-cache') };
    const optionsOf = (guest: Guest) => ({
      nodeName: guest.name,
      ...(program !== undefined && { program }),
      dataDir: '/mnt/disk/data',
      poolDir: `/mnt/disk/pool${poolOptions}`,
      apiPath: API,
      env,
      flags: [
        ['--store', `etcd://${store.address}`, '--cluster-key', join(directory, 'key')],
        ['--listen', `${guest.address}:${PORT}`],
        flags,
      ].flat(),
    });
    const peer = await LabDaemon.start(other, optionsOf(other));
    const supervisor = user.start(supervised(LabDaemon.words(optionsOf(user))), {
      env,
      timeoutMs: GUEST_LIFE_MS,
    });
    await mustRun(user, `until [ -S ${API} ]; do sleep 0.1; done`, { timeoutMs: START_MS });
    await peer.cli('volume', 'create', VOLUME, '--size', size, '--replicas', '1');
    await untilShown(peer, ({ inSync }) => inSync.length === 2);
    const attach = [HOLDFAST, 'volume', 'attach', VOLUME, '--api', API];
    const device = (await mustRun(user, attach, { env })).trim();
    return new LocalCluster({ user, other, device, peer, supervisor }, resources.move());
  }

  private constructor(
    parts: { user: Guest; other: Guest; device: string; peer: LabDaemon; supervisor: Job },
    resources: AsyncDisposableStack,
  ) {
    this.user = parts.user;
    this.other = parts.other;
    this.device = parts.device;
    this.#peer = parts.peer;
    this.#supervisor = parts.supervisor;
    this.#resources = resources;
  }

  /** Both copies are in sync, and the primary is on that node. */
  async primaryTo(node: string): Promise<void> {
    const { primary } = await untilShown(this.#peer, ({ inSync }) => inSync.length === 2);
    if (primary === node) return;
    await this.#peer.cli('volume', 'move', VOLUME, node);
    await untilShown(this.#peer, (shown) => shown.primary === node && shown.inSync.length === 2);
  }

  async show(): Promise<Shown> {
    return await show(this.#peer);
  }

  /** SIGKILL of the user's daemon; its supervisor starts the next one. Returns when that was, by the guest's clock. */
  async killDaemon(): Promise<number> {
    const script = `kill -KILL $(cat ${PID_FILE}) && echo $EPOCHREALTIME`;
    return Number(await mustRun(this.user, script)) * 1000;
  }

  /** Of all the user's daemons so far. */
  async log(): Promise<LogLine[]> {
    const lines = (await this.#supervisor.stderr()).split('\n').filter((line) => line.startsWith('{'));
    return lines.map((line) => lineSchema.parse(JSON.parse(line)));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#resources.disposeAsync();
  }
}

/** As systemd with Restart=always and no pause in between. */
function supervised(words: string): string {
  return `while :; do
    ${words} & echo $! >${PID_FILE}
    wait
    date -u +'{"time":"%FT%T.%3NZ","msg":"ended"}' >&2
  done`;
}

async function show(daemon: LabDaemon): Promise<Shown> {
  return shownSchema.parse(await daemon.cli('volume', 'show', VOLUME));
}

async function untilShown(daemon: LabDaemon, isSo: (shown: Shown) => boolean): Promise<Shown> {
  const deadlineMs = performance.now() + START_MS;
  for (;;) {
    const shown = await show(daemon);
    if (isSo(shown)) return shown;
    if (performance.now() > deadlineMs) throw new Error(`the volume stays ${JSON.stringify(shown)}`);
    await sleep(300);
  }
}
