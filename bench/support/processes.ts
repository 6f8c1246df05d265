// A server under measurement: its processes, their CPU time, their memory, where they may run.

import { type ChildProcess, execFileSync, type SpawnOptions, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';

const MICROS_PER_TICK = 1e6 / Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));

interface Stat {
  readonly parent: number;
  /** User and system time, its own and that of the children it has reaped. */
  readonly ownTicks: number;
  readonly reapedTicks: number;
}

function readStat(pid: number): Stat | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name stands in parentheses and may hold anything: count from behind them. Field 3 comes first.
    const fields = text
      .slice(text.lastIndexOf(')') + 2)
      .split(' ')
      .map(Number);
    const [user = 0, system = 0, childUser = 0, childSystem = 0] = fields.slice(11, 15);
    return { parent: fields[1] ?? 0, ownTicks: user + system, reapedTicks: childUser + childSystem };
  } catch {
    return undefined;
  }
}

/** The process and all its descendants that are alive. */
export function processTree(pid: number): number[] {
  const parents = new Map<number, number>();
  for (const entry of readdirSync('/proc')) {
    const child = Number(entry);
    const stat = Number.isInteger(child) ? readStat(child) : undefined;
    if (stat !== undefined) parents.set(child, stat.parent);
  }
  const tree = [pid];
  for (const member of tree) {
    for (const [child, parent] of parents) if (parent === member) tree.push(child);
  }
  return tree;
}

/** CPU time of the tree since it began, with threads (the kernel's io_uring workers are among them) and dead children. */
export function cpuMicros(pid: number): number {
  const ticks = processTree(pid).reduce((sum, member) => {
    const stat = readStat(member);
    return sum + (stat === undefined ? 0 : stat.ownTicks + stat.reapedTicks);
  }, 0);
  return ticks * MICROS_PER_TICK;
}

export function residentBytes(pid: number): number {
  const match = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return Number(match?.[1] ?? Number.NaN) * 1024;
}

/** Moves every thread of the tree to the given processors ('0', '0-1'); later children inherit it. */
export function placeProcesses(pid: number, processors: string): void {
  for (const member of processTree(pid)) {
    execFileSync('taskset', ['--all-tasks', '--cpu-list', '--pid', processors, String(member)], {
      stdio: 'ignore',
    });
  }
}

/** Ended with this process, however it ends: by pid, since some put themselves into the background. */
const running = new Set<number>();
process.once('exit', () => {
  for (const pid of running) killQuietly(pid);
});

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGTERM');
  } catch {
    // It is gone already.
  }
}

/** Of one that is nobody's child. */
export function endBackground(pid: number): void {
  running.delete(pid);
  killQuietly(pid);
}

export function endWithThisProcess(pid: number | undefined): void {
  if (pid !== undefined) running.add(pid);
}

export function start(file: string, args: readonly string[], options: SpawnOptions = {}): ChildProcess {
  const child = spawn(file, args, { stdio: ['ignore', 'ignore', 'inherit'], ...options });
  child.on('error', (error) => console.error(`${file}: ${error.message}`));
  endWithThisProcess(child.pid);
  child.once('exit', () => running.delete(child.pid ?? 0));
  return child;
}

export async function end(child: ChildProcess, graceMs = 30_000): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  const ended = once(child, 'exit');
  child.kill('SIGTERM');
  const killer = setTimeout(() => child.kill('SIGKILL'), graceMs);
  await ended;
  clearTimeout(killer);
}

export async function untilExists(path: string, child?: ChildProcess, timeoutMs = 15_000): Promise<void> {
  const deadlineMs = performance.now() + timeoutMs;
  while (!existsSync(path)) {
    if (child !== undefined && (child.exitCode !== null || child.pid === undefined))
      throw new Error(`the server for ${path} ended`);
    if (performance.now() > deadlineMs) throw new Error(`${path} did not come up in ${timeoutMs} ms`);
    await sleep(10);
  }
}
