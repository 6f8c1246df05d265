// The part of preflight that touches the directory of a pool to be: how fast it flushes, and its room. It is a process
// of its own (`directoryFindings` starts it), since a disk or server may hang, and then only it does.
//
//   node preflight-worker.ts DIRECTORY       prints the findings as JSON

import { constants, existsSync } from 'node:fs';
import { mkdtemp, open, rm, stat, statfs } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { errorText } from '../core/errors.ts';
import { type DirectoryFindings, type Finding, ok, problem, warning } from './preflight-finding.ts';
import { formatSize } from './values.ts';

function nearestExisting(path: string): string {
  const directory = resolve(path);
  return existsSync(directory) || directory === '/' ? directory : nearestExisting(dirname(directory));
}

const FLUSH_COUNT = 200;
const FLUSH_TIME_MS = 3000;

/** Times of write + fdatasync of 4 KiB, sorted, in milliseconds. */
async function measureFlushes(directory: string): Promise<{ times: number[]; isDirect: boolean }> {
  const scratch = await mkdtemp(join(directory, '.holdfast-preflight-'));
  try {
    const path = join(scratch, 'flush');
    const file = await open(path, 'w');
    const times: number[] = [];
    try {
      const block = Buffer.alloc(4096, 1);
      const end = performance.now() + FLUSH_TIME_MS;
      while (times.length < FLUSH_COUNT && performance.now() < end) {
        const started = performance.now();
        await file.write(block, 0, block.length, times.length * block.length);
        await file.datasync();
        times.push(performance.now() - started);
      }
    } finally {
      await file.close();
    }
    const isDirect = await open(path, constants.O_RDWR | constants.O_DIRECT).then(
      async (direct) => {
        await direct.close();
        return true;
      },
      () => false,
    );
    return { times: times.sort((a, b) => a - b), isDirect };
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function flushes(path: string): Promise<Finding> {
  const directory = nearestExisting(path);
  try {
    if (!(await stat(directory)).isDirectory())
      return problem(`${directory} is no directory`, 'name another with --dir');
    const { times, isDirect } = await measureFlushes(directory);
    const at = (share: number): number =>
      times[Math.min(times.length - 1, Math.floor(times.length * share))] ?? 0;
    const found = `${directory}: fdatasync p50 ${at(0.5).toFixed(2)} ms, p99 ${at(0.99).toFixed(2)} ms (${times.length} flushes), O_DIRECT ${isDirect ? 'yes' : 'no'}`;
    if (at(0.99) > 100)
      return warning(
        found,
        'a disk that flushes this slowly makes databases wait; use an SSD with power-loss protection',
      );
    if (!isDirect) return warning(found, 'pools here work buffered (io=buffered): data is cached twice');
    return ok(found);
  } catch (error) {
    return problem(`${directory}: ${errorText(error)}`, 'name a directory this user may write with --dir');
  }
}

async function room(path: string): Promise<Finding> {
  const directory = nearestExisting(path);
  const space = await statfs(directory);
  const freeBytes = space.bavail * space.bsize;
  const found = `${directory}: ${formatSize(freeBytes)} free of ${formatSize(space.blocks * space.bsize)}`;
  return freeBytes < 2 ** 30 ? warning(found, 'give pools a file system with room') : ok(found);
}

const [, , directory = '/'] = process.argv;
const findings: DirectoryFindings = { flushes: await flushes(directory), room: await room(directory) };
process.stdout.write(JSON.stringify(findings));
