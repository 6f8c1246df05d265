// fio as the application of the failover demo: its nbd engine on an exported volume, at a steady rate, so that what it
// waits for is a pause and not a queue.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { type FioFigures, readFio } from './fio.ts';

const BLOCK_BYTES = 4096;

export interface NbdJob {
  readonly uri: string;
  /** The part of the volume that it writes. */
  readonly offsetBytes: number;
  readonly writes: number;
  readonly writesPerSecond: number;
  /** write: writes at random, and reads back and compares what it wrote. check: reads and compares only. */
  readonly step: 'write' | 'check';
}

export interface RunningFio {
  readonly ended: Promise<FioFigures>;
  kill(): void;
}

/** `ended` rejects when fio saw an error or a wrong checksum. */
export function startNbdFio(job: NbdJob, timeoutMs: number): RunningFio {
  const child = spawn('fio', fioArguments(job), { stdio: ['ignore', 'pipe', 'pipe'] });
  let [output, complaints] = ['', ''];
  child.stdout.on('data', (data: Buffer) => {
    output += data.toString();
  });
  child.stderr.on('data', (data: Buffer) => {
    complaints += data.toString();
  });
  const killer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
  const ended = once(child, 'close').then(([code]) => {
    clearTimeout(killer);
    if (code !== 0)
      throw new Error(`fio ended with ${String(code)}:\n${output.slice(-3000)}\n${complaints.slice(-3000)}`);
    return readFio(output, job.step);
  });
  ended.catch(() => undefined); // awaited later
  return { ended, kill: () => child.kill('SIGKILL') };
}

function fioArguments({ uri, offsetBytes, writes, writesPerSecond, step }: NbdJob): string[] {
  return [
    '--name=failover',
    '--ioengine=nbd',
    `--uri=${uri}`,
    '--rw=randwrite',
    `--bs=${BLOCK_BYTES}`,
    '--iodepth=16',
    `--offset=${offsetBytes}`,
    `--size=${writes * BLOCK_BYTES}`,
    '--verify=crc32c',
    '--verify_fatal=1',
    '--randseed=4711', // the check repeats the order of the writes
    '--verify_state_save=0', // it would leave a file
    '--output-format=json',
    ...(step === 'check'
      ? ['--verify_only=1']
      : [`--rate_iops=${writesPerSecond}`, '--end_fsync=1', '--do_verify=1', '--verify_backlog=512']),
  ];
}
