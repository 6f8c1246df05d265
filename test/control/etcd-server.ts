// A real etcd for tests: its own data directory, loopback ports that were free, killed by its own id.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { execa } from 'execa';
import { Endpoint } from '../../src/control/etcd/endpoint.ts';
import { credentials } from '@grpc/grpc-js';
import { invariant } from '../../src/core/invariant.ts';

const START_MS = 15_000;

export interface EtcdTls {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
  /** What clients must show. */
  readonly client: { readonly cert: string; readonly key: string };
}

export class EtcdServer {
  readonly directory: string;
  readonly clientPort: number;
  readonly #name: string;
  readonly #peerUrl: string;
  #cluster: string;
  readonly #tls: EtcdTls | undefined;
  #dataDirectory: string;
  #process: ChildProcess | undefined;

  /** Started, and answering. */
  static async start(tls?: EtcdTls): Promise<EtcdServer> {
    const server = await EtcdServer.#create('test', tls);
    await server.start();
    return server;
  }

  /** The members of one cluster, with a leader. */
  static async startCluster(count: number): Promise<EtcdServer[]> {
    const names = Array.from({ length: count }, (_, index) => `member${index}`);
    const members: EtcdServer[] = [];
    for (const name of names) members.push(await EtcdServer.#create(name));
    const cluster = members.map((member) => member.#clusterEntry).join(',');
    for (const member of members) member.#cluster = cluster;
    await Promise.all(members.map(async (member) => await member.start()));
    return members;
  }

  static async #create(name: string, tls?: EtcdTls): Promise<EtcdServer> {
    const directory = await mkdtemp(join(tmpdir(), 'holdfast-etcd-'));
    const [clientPort, peerPort] = await freePorts();
    return new EtcdServer(name, directory, { clientPort, peerPort }, tls);
  }

  private constructor(
    name: string,
    directory: string,
    ports: { readonly clientPort: number; readonly peerPort: number },
    tls: EtcdTls | undefined,
  ) {
    this.#name = name;
    this.directory = directory;
    this.clientPort = ports.clientPort;
    this.#peerUrl = `http://127.0.0.1:${ports.peerPort}`;
    this.#cluster = this.#clusterEntry;
    this.#tls = tls;
    this.#dataDirectory = join(directory, 'data');
  }

  get #clusterEntry(): string {
    return `${this.#name}=${this.#peerUrl}`;
  }

  get address(): string {
    return `127.0.0.1:${this.clientPort}`;
  }

  get pid(): number {
    invariant(this.#process?.pid, 'etcd runs');
    return this.#process.pid;
  }

  async start(): Promise<void> {
    invariant(this.#process === undefined, 'etcd does not run');
    const scheme = this.#tls === undefined ? 'http' : 'https';
    const url = `${scheme}://${this.address}`;
    const args = [
      ['--name', this.#name, '--data-dir', this.#dataDirectory],
      ['--listen-client-urls', url, '--advertise-client-urls', url],
      ['--listen-peer-urls', this.#peerUrl, '--initial-advertise-peer-urls', this.#peerUrl],
      ['--initial-cluster', this.#cluster],
      ['--log-level', 'warn', '--logger', 'zap', '--log-outputs', 'stderr'],
      // Quick elections keep leases of one second; nothing here survives the machine, so nothing is synced.
      ['--heartbeat-interval', '10', '--election-timeout', '100', '--unsafe-no-fsync'],
      this.#tls === undefined ? [] : ['--cert-file', this.#tls.cert, '--key-file', this.#tls.key],
      this.#tls === undefined ? [] : ['--trusted-ca-file', this.#tls.ca, '--client-cert-auth'],
    ].flat();
    const child = spawn('etcd', args, {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { PATH: process.env['PATH'] },
    });
    this.#process = child;
    let problem: Error | undefined;
    child.once('error', (cause) => {
      problem = new Error('etcd is missing here: type sh scripts/setup.sh test', { cause });
    });
    let log = '';
    child.stderr?.on('data', (data: Buffer) => {
      log = (log + data.toString()).slice(-4000);
    });
    const deadline = performance.now() + START_MS;
    const endpoint = new Endpoint(this.address, await this.#credentials());
    try {
      for (;;) {
        if (problem !== undefined) throw problem;
        if (child.exitCode !== null) throw new Error(`etcd ended with ${child.exitCode}: ${log}`);
        if (await answers(endpoint)) return;
        if (performance.now() > deadline) throw new Error(`etcd does not answer: ${log}`);
        await sleep(20);
      }
    } finally {
      endpoint.close();
    }
  }

  /** SIGKILL; resolves when the process is gone. */
  async kill(): Promise<void> {
    const child = this.#process;
    if (child === undefined) return;
    this.#process = undefined;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
  }

  async restart(): Promise<void> {
    await this.kill();
    await this.start();
  }

  async etcdctl(...args: string[]): Promise<string> {
    const { stdout } = await execa('etcdctl', ['--endpoints', this.#url, ...args], {
      // A disk that everybody uses may take more than the usual 5 s to defragment.
      env: { ETCDCTL_API: '3', ETCDCTL_COMMAND_TIMEOUT: '15s' },
      timeout: 20_000,
    });
    return stdout;
  }

  async saveSnapshot(path: string): Promise<void> {
    await this.etcdctl('snapshot', 'save', path);
  }

  /** As a person would: stop, restore to a new directory, start on it. Same addresses, same name. */
  async restoreSnapshot(path: string, options: { readonly token?: string } = {}): Promise<void> {
    await this.kill();
    this.#dataDirectory = join(this.directory, `restored-${Date.now()}`);
    await execa(
      'etcdctl',
      [
        ['snapshot', 'restore', path, '--data-dir', this.#dataDirectory, '--name', this.#name],
        ['--initial-cluster', this.#cluster, '--initial-advertise-peer-urls', this.#peerUrl],
        options.token === undefined ? [] : ['--initial-cluster-token', options.token],
      ].flat(),
      { env: { ETCDCTL_API: '3' }, timeout: 20_000 },
    );
    await this.start();
  }

  async dispose(): Promise<void> {
    await this.kill();
    await rm(this.directory, { recursive: true, force: true });
  }

  get #url(): string {
    return `${this.#tls === undefined ? 'http' : 'https'}://${this.address}`;
  }

  async #credentials() {
    return this.#tls === undefined
      ? credentials.createInsecure()
      : credentials.createSsl(
          await readFile(this.#tls.ca),
          await readFile(this.#tls.client.key),
          await readFile(this.#tls.client.cert),
        );
  }
}

async function answers(endpoint: Endpoint): Promise<boolean> {
  try {
    await endpoint.ready(1000);
    const { leader } = await endpoint.call('Status', {}, { timeoutMs: 1000, token: undefined });
    return leader !== '0';
  } catch {
    return false;
  }
}

async function freePorts(): Promise<[number, number]> {
  const servers = [createServer(), createServer()];
  const ports: number[] = [];
  for (const server of servers) {
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    ports.push((server.address() as AddressInfo).port);
  }
  for (const server of servers) {
    server.close();
    await once(server, 'close');
  }
  const [first, second] = ports;
  invariant(first !== undefined && second !== undefined, 'two ports were free');
  return [first, second];
}
