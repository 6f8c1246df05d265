// Where and with what a figure was measured: without this a figure means nothing.

import { execFileSync } from 'node:child_process';
import { cpus, loadavg, release, totalmem } from 'node:os';
import { fileURLToPath } from 'node:url';

export interface Machine {
  readonly processor: string;
  readonly processorCount: number;
  readonly memoryBytes: number;
  readonly kernel: string;
  readonly node: string;
  /** With '+' when the tree holds changes that are not committed. */
  readonly commit: string;
  readonly fileSystem: string;
  /** Of the minute before: above a few tenths, somebody else is being measured as well. */
  readonly load: number;
}

export const root = fileURLToPath(new URL('../..', import.meta.url));

function output(file: string, ...args: string[]): string {
  return execFileSync(file, args, {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  }).trim();
}

function commit(): string {
  try {
    const isDirty = output('git', 'status', '--porcelain', '--untracked-files=no', 'src', 'native') !== '';
    return output('git', 'rev-parse', '--short=12', 'HEAD') + (isDirty ? '+' : '');
  } catch {
    return 'no git checkout';
  }
}

/** `directory`: where the images are. */
export function describeMachine(directory: string): Machine {
  const processors = cpus();
  return {
    processor: processors[0]?.model ?? 'unknown',
    processorCount: processors.length,
    memoryBytes: totalmem(),
    kernel: release(),
    node: process.version,
    commit: commit(),
    fileSystem: output('findmnt', '--noheadings', '--output', 'FSTYPE,SOURCE,OPTIONS', '--target', directory),
    load: loadavg()[0] ?? 0,
  };
}

export function printMachine(machine: Machine): void {
  const memoryGib = Math.round(machine.memoryBytes / 2 ** 30);
  console.log(`machine     ${machine.processor}, ${machine.processorCount} cores, ${memoryGib} GiB`);
  console.log(`kernel      ${machine.kernel}, ${machine.fileSystem}`);
  console.log(`node        ${machine.node}`);
  console.log(`commit      ${machine.commit}`);
  console.log(`load before ${machine.load.toFixed(2)}`);
}
