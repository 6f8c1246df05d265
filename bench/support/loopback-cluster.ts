// Our daemons with a real etcd, all on this machine's loopback: the links between them are as fast as the machine.

import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Daemon, startDaemon } from './holdfast.ts';
import { root } from './machine.ts';
import { end, start } from './processes.ts';

const FIRST_PORT = 41_000;
const START_MS = 30_000;
const POOL = 'main';

export class LoopbackCluster {
  readonly #directory: string;
  readonly #mode: 'direct' | 'buffered';
  readonly #store: string;
  readonly #daemons = new Map<string, Daemon>();
  readonly #etcd: ReturnType<typeof start>;

  /** All daemons serve. */
  static async start(
    directory: string,
    nodes: readonly string[],
    mode: 'direct' | 'buffered',
  ): Promise<LoopbackCluster> {
    mkdirSync(directory);
    const etcd = await startEtcd(join(directory, 'etcd'));
    const key = execFileSync(join(root, 'bin/holdfast'), ['cluster', 'keygen'], { encoding: 'utf8' });
    writeFileSync(join(directory, 'key'), key, { mode: 0o600 });
    const cluster = new LoopbackCluster(directory, mode, etcd);
    try {
      for (const node of nodes) await cluster.startNode(node);
      return cluster;
    } catch (error) {
      await cluster.stop();
      throw error;
    }
  }

  private constructor(directory: string, mode: 'direct' | 'buffered', etcd: Etcd) {
    this.#directory = directory;
    this.#mode = mode;
    this.#store = `etcd://${etcd.address}`;
    this.#etcd = etcd.child;
  }

  daemon(node: string): Daemon {
    const daemon = this.#daemons.get(node);
    if (daemon === undefined) throw new Error(`no daemon runs as node "${node}"`);
    return daemon;
  }

  /** A new node, or one that was killed. */
  async startNode(node: string): Promise<void> {
    const options = [
      ['--store', this.#store, '--cluster-key', join(this.#directory, 'key')],
      ['--listen', `127.0.0.1:${await takePort()}`],
    ];
    const daemon = await startDaemon({
      directory: join(this.#directory, node),
      nodeName: node,
      pools: { [POOL]: this.#mode },
      flags: options.flat(),
    });
    this.#daemons.set(node, daemon);
  }

  async killNode(node: string): Promise<void> {
    const daemon = this.daemon(node);
    this.#daemons.delete(node);
    await daemon.kill();
  }

  /** The bytes of a copy. */
  dataFile(node: string, volumeId: string): string {
    return join(this.#directory, node, `pool-${POOL}`, volumeId, 'data');
  }

  async stop(): Promise<void> {
    await Promise.all(Array.from(this.#daemons.values(), async (daemon) => await daemon.stop()));
    await end(this.#etcd);
  }
}

interface Etcd {
  readonly child: ReturnType<typeof start>;
  readonly address: string;
}

async function startEtcd(directory: string): Promise<Etcd> {
  const address = `127.0.0.1:${await takePort()}`;
  const peers = `http://127.0.0.1:${await takePort()}`;
  const args = [
    ['--data-dir', directory, '--initial-cluster', `default=${peers}`],
    ['--log-level', 'error', '--logger', 'zap', '--log-outputs', 'stderr'],
    ['--listen-client-urls', `http://${address}`, '--advertise-client-urls', `http://${address}`],
    ['--listen-peer-urls', peers, '--initial-advertise-peer-urls', peers],
  ];
  const child = start('etcd', args.flat());
  await untilListening(Number(address.split(':')[1]));
  return { child, address };
}

let lastPort = FIRST_PORT - 1;

/** Free a moment ago, and not given before. */
export async function takePort(): Promise<number> {
  for (;;) {
    lastPort += 1;
    const server = createServer();
    server.listen(lastPort, '127.0.0.1');
    try {
      await once(server, 'listening');
    } catch {
      continue;
    }
    server.close();
    await once(server, 'close');
    return lastPort;
  }
}

export async function untilListening(port: number): Promise<void> {
  const deadlineMs = performance.now() + START_MS;
  for (;;) {
    const socket = connect(port, '127.0.0.1');
    try {
      await once(socket, 'connect');
      return;
    } catch (error) {
      if (performance.now() > deadlineMs) throw error;
      await sleep(20);
    } finally {
      socket.destroy();
    }
  }
}
