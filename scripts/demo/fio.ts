// fio as the application of the demo: its jobs, and the figures of its JSON report.

import { z } from 'zod';
import { type Machine, mustRun, type Job } from '../../test/lab/machine.ts';

const FIO_TIMEOUT_MS = 300_000;

const directionSchema = z.object({
  iops: z.number(),
  total_ios: z.number(),
  clat_ns: z.object({
    max: z.number(),
    mean: z.number(),
    percentile: z.record(z.string(), z.number()).optional(),
  }),
});
const reportSchema = z.object({
  jobs: z.array(z.object({ error: z.number(), read: directionSchema, write: directionSchema })).length(1),
});

export interface FioFigures {
  readonly iops: number;
  readonly requests: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

export interface FioJob {
  readonly file: string;
  readonly sizeBytes: number;
  /** write: random writes, then an fsync. check: reads them back and compares every checksum. */
  readonly step: 'write' | 'check';
}

const QUEUE_DEPTH = 16;

export function fioArguments({ file, sizeBytes, step }: FioJob): string[] {
  return [
    'fio',
    '--name=demo',
    `--filename=${file}`,
    `--size=${sizeBytes}`,
    '--rw=randwrite',
    '--bs=4k',
    '--ioengine=libaio',
    `--iodepth=${QUEUE_DEPTH}`,
    '--direct=1',
    '--verify=crc32c',
    '--verify_fatal=1',
    '--randseed=4711', // the check repeats the order of the writes
    '--output-format=json',
    ...(step === 'write' ? ['--end_fsync=1', '--do_verify=0'] : ['--verify_only=1']),
  ];
}

export function startFio(machine: Machine, job: FioJob): Job {
  return machine.start(fioArguments(job), { timeoutMs: FIO_TIMEOUT_MS });
}

export async function runFio(machine: Machine, job: FioJob): Promise<FioFigures> {
  return readFio(await mustRun(machine, fioArguments(job), { timeoutMs: FIO_TIMEOUT_MS }), job.step);
}

/** Throws when fio saw any error. */
export function readFio(output: string, step: FioJob['step']): FioFigures {
  // fio may print warnings before the report.
  const [job] = reportSchema.parse(JSON.parse(output.slice(output.indexOf('{')))).jobs;
  if (job === undefined || job.error !== 0) throw new Error(`fio reports error ${job?.error}:\n${output}`);
  const figures = step === 'write' ? job.write : job.read;
  const percentile = (name: string) => (figures.clat_ns.percentile?.[name] ?? figures.clat_ns.mean) / 1e6;
  return {
    iops: figures.iops,
    requests: figures.total_ios,
    p50Ms: percentile('50.000000'),
    p99Ms: percentile('99.000000'),
    maxMs: figures.clat_ns.max / 1e6,
  };
}
