// Pools in scratch directories, and a child process that changes one until it is killed.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { GIB } from '../../src/core/units.ts';
import type { ReplicaSpec } from '../../src/dataplane/node-storage.ts';
import * as replicas from '../../src/dataplane/open-replica.ts';
import { Pool, type PoolOptions } from '../../src/dataplane/pool.ts';
import * as replicaFiles from '../../src/dataplane/replica-files.ts';
import { WindowFiles } from '../../src/dataplane/window-files.ts';

export const VOLUME = 'a'.repeat(32);
export const OTHER_VOLUME = 'b'.repeat(32);
export const BOOT = 'boot-1';

export function specOf(volumeId: string, sizeBytes = GIB): ReplicaSpec {
  return {
    volumeId,
    volumeName: `volume ${volumeId.slice(0, 2)}`,
    replicaId: `replica-${volumeId.slice(0, 2)}`,
    pool: 'fast',
    sizeBytes,
    lineage: 'lineage-1',
    epoch: 1,
    durability: 'writeback',
    failureMode: 'soft',
  };
}

export function openPool(directory: string, options: Partial<PoolOptions> = {}): Promise<Pool> {
  return Pool.open('fast', directory, { overcommitRatio: 1000, ...options });
}

/** Every process that opens this pool has its windows here. */
export function runDirectoryOf(pool: Pool): string {
  return `${pool.directory}-run`;
}

export function windowPathOf(pool: Pool, volumeId: string): string {
  return join(runDirectoryOf(pool), 'window', `${pool.id}-${volumeId}`);
}

export function openReplica(
  pool: Pool,
  volumeId: string,
  bootId: string,
  windows = new WindowFiles(runDirectoryOf(pool)),
): Promise<replicas.OpenReplica> {
  return replicas.openReplica(pool, windows, volumeId, bootId);
}

export function deleteReplica(pool: Pool, volumeId: string): Promise<void> {
  return replicaFiles.deleteReplica(pool, new WindowFiles(runDirectoryOf(pool)), volumeId);
}

/** Runs `use` with a pool of its own and removes everything afterwards. */
export async function withPool(
  use: (pool: Pool) => Promise<void>,
  options: Partial<PoolOptions> = {},
): Promise<void> {
  await withDirectory(async (directory) => {
    const pool = await openPool(join(directory, 'pool'), options);
    try {
      await use(pool);
    } finally {
      await pool.close();
    }
  });
}

export async function withDirectory(use: (directory: string) => Promise<void>): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'holdfast-pool-'));
  try {
    await use(directory);
  } finally {
    for (const path of [directory, `${directory}-run`]) await rm(path, { recursive: true, force: true });
  }
}

/**
 * Starts pool-child.fixture.ts, kills it with SIGKILL at a random moment after its first line, and returns the last
 * number that it printed.
 */
export async function killAtRandom(what: 'churn' | 'update' | 'window', directory: string): Promise<number> {
  const script = join(import.meta.dirname, 'pool-child.fixture.ts');
  const child = spawn(process.execPath, [script, what, directory], {
    stdio: ['ignore', 'pipe', 'inherit'],
    timeout: 20_000,
    killSignal: 'SIGKILL',
  });
  const exited = once(child, 'exit');
  const lines = createInterface({ input: child.stdout });
  const closed = once(lines, 'close');
  let last = Number.NaN;
  lines.on('line', (line) => {
    last = Number(line);
  });
  await Promise.race([once(lines, 'line'), closed]);
  await sleep(Math.random() * 15);
  child.kill('SIGKILL');
  const [, signal] = (await exited) as [number | null, string | null];
  await closed;
  if (signal !== 'SIGKILL' || Number.isNaN(last)) throw new Error(`the child for '${what}' ended by itself`);
  return last;
}
