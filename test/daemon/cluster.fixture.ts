// Several real daemons that share a real etcd and a cluster's key, in directories that go with the test.

import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { EtcdServer } from '../control/etcd-server.ts';
import { NbdClient } from '../support/nbd-client.ts';
import { type Child, type Daemon, until, Workplace } from './daemon.fixture.ts';

const SERVES_MS = 60_000;

interface Nodes {
  readonly nodes: readonly { readonly alive: boolean; readonly pools: readonly unknown[] }[];
}

export class ClusterPlace {
  readonly place: Workplace;
  #etcd: EtcdServer;

  static async create(): Promise<ClusterPlace> {
    const place = await Workplace.create();
    await writeFile(place.path('key'), randomBytes(32).toString('hex'), { mode: 0o600 });
    return new ClusterPlace(place, await EtcdServer.start());
  }

  private constructor(place: Workplace, etcd: EtcdServer) {
    this.place = place;
    this.#etcd = etcd;
  }

  async start(name: string, ...args: readonly string[]): Promise<Daemon> {
    const own = ['--node-name', name, '--store', `etcd://${this.#etcd.address}`, '--threads', '1'];
    const cluster = ['--cluster-key', this.place.path('key'), '--listen', '127.0.0.1:0'];
    return await this.place.serving([...own, ...cluster, ...args], {}, name);
  }

  /** In this order; `args`: of each. Returns when all are alive, with their pools. */
  async startAll(
    names: readonly string[],
    args: (name: string) => readonly string[] = () => [],
  ): Promise<Daemon[]> {
    const daemons: Daemon[] = [];
    for (const name of names) daemons.push(await this.start(name, ...args(name)));
    await until(
      'all are alive',
      async () => {
        const listed = await daemons[0]?.json<Nodes>('node', 'ls');
        return listed?.nodes.filter(({ alive, pools }) => alive && pools.length > 0).length === names.length;
      },
      SERVES_MS,
    );
    return daemons;
  }

  /** Another etcd, with nothing in it, is in the place of the one that was. */
  async loseStore(): Promise<void> {
    await this.#etcd.dispose();
    this.#etcd = await EtcdServer.start();
  }

  /** Exports the volume on this daemon's node, and connects. */
  async connect(daemon: Daemon, volume: string): Promise<{ client: NbdClient; command: Child }> {
    const path = join(daemon.dataDir, `${volume}.sock`);
    const args = ['volume', 'export', volume, '--unix', path, '--json', '--api', daemon.api];
    const command = this.place.child(args);
    await until('it is exported', () => command.lines.length > 0, SERVES_MS);
    return { client: await NbdClient.connect(path, volume), command };
  }

  async dispose(): Promise<void> {
    await this.place.dispose();
    await this.#etcd.dispose();
  }
}
