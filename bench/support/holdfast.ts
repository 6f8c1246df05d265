// Our daemon, started through bin/holdfast as a user starts it, and its volumes exported on Unix sockets.

import type { ChildProcess } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ApiClient, connectApi } from '../../src/cli/api-client.ts';
import { root } from './machine.ts';
import { end, start } from './processes.ts';

export interface DaemonOptions {
  readonly directory: string;
  /** By name; each in a directory of that name. */
  readonly pools: Readonly<Record<string, 'direct' | 'buffered'>>;
  readonly flags?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  readonly metrics?: boolean;
  readonly nodeName?: string;
  /** How long the API may take to answer. */
  readonly startTimeoutMs?: number;
}

export interface Daemon {
  readonly pid: number;
  readonly api: ApiClient;
  /** From the start of the process to the API's first answer. */
  readonly startMs: number;
  /** Creates the volume unless it exists. */
  createVolume(name: string, pool: string, sizeBytes: number): Promise<void>;
  /** Returns the URI; the export lasts until the daemon is stopped. */
  exportVolume(name: string): Promise<string>;
  /** The value of a metric that has no labels beside the thread, summed. Needs `metrics: true`. */
  metric(name: string): Promise<number>;
  stop(): Promise<void>;
  /** SIGKILL. */
  kill(): Promise<void>;
}

export async function startDaemon(options: DaemonOptions): Promise<Daemon> {
  const { directory } = options;
  const apiPath = join(directory, 'api.sock');
  const pools = Object.entries(options.pools).map(([name, ioMode]) => {
    const poolDirectory = join(directory, `pool-${name}`);
    mkdirSync(poolDirectory, { recursive: true });
    return `--pool=${name}=${poolDirectory},io=${ioMode}`;
  });
  const metricsPort = options.metrics ? await freePort() : undefined;
  const metrics = metricsPort === undefined ? [] : [`--metrics=127.0.0.1:${metricsPort}`];
  const startedAt = performance.now();
  const child = start(
    join(root, 'bin/holdfast'),
    [
      'daemon',
      '--data-dir',
      join(directory, 'data'),
      '--node-name',
      options.nodeName ?? 'bench',
      '--api',
      apiPath,
      ...pools,
      ...metrics,
      ...(options.flags ?? []),
    ],
    { env: { ...process.env, HOLDFAST_LOG_LEVEL: 'error', ...options.environment } },
  );
  const api = connectApi(apiPath);
  await untilAnswered(api, child, startedAt + (options.startTimeoutMs ?? 30_000));
  const startMs = performance.now() - startedAt;
  const stopExports = new AbortController();
  const exports: Promise<void>[] = [];
  const finish = async (signal: NodeJS.Signals): Promise<void> => {
    if (signal === 'SIGTERM') stopExports.abort();
    else child.kill(signal);
    await Promise.all(exports);
    api.close();
    await end(child);
  };
  return {
    pid: child.pid ?? 0,
    api,
    startMs,
    createVolume: async (name, pool, sizeBytes) => {
      await api.call('CreateVolume', {
        name,
        sizeBytes,
        pool,
        replicas: 0,
        durability: 'writeback',
        failureMode: '',
        labels: {},
      });
    },
    exportVolume: async (name) => {
      const unixPath = join(directory, `${name}.sock`);
      const events = api.exportVolume({ volume: name, unixPath }, stopExports.signal)[Symbol.asyncIterator]();
      const first = await events.next();
      if (first.done) throw new Error(`the export of ${name} ended at once`);
      exports.push(drain(events));
      return `nbd+unix:///${name}?socket=${unixPath}`;
    },
    metric: async (name) => {
      const response = await fetch(`http://127.0.0.1:${metricsPort}/metrics`);
      const lines = (await response.text()).split('\n');
      const found = lines.filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`));
      if (found.length === 0) throw new Error(`the daemon has no metric ${name}`);
      return found.reduce((sum, line) => sum + Number(line.slice(line.lastIndexOf(' ') + 1)), 0);
    },
    stop: () => finish('SIGTERM'),
    kill: () => finish('SIGKILL'),
  };
}

/** Free a moment ago. */
function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => resolve(port));
    });
  });
}

async function drain(events: AsyncIterator<unknown>): Promise<void> {
  try {
    while (!(await events.next()).done) continue;
  } catch {
    // The daemon ended first; whoever measures has noticed by then.
  }
}

async function untilAnswered(api: ApiClient, child: ChildProcess, deadlineMs: number): Promise<void> {
  for (;;) {
    try {
      await api.call('GetStatus', {});
      return;
    } catch (error) {
      if (child.exitCode !== null || performance.now() > deadlineMs) throw error;
      await sleep(5);
    }
  }
}
