// One run of fio: its nbd engine against one or several exports at once, or libaio on a device of a lab machine.

import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { z } from 'zod';
import { type Machine, mustRun } from '../../test/lab/machine.ts';

const run = promisify(execFile);

export interface Job {
  readonly name: string;
  readonly pattern: 'read' | 'write' | 'randread' | 'randwrite' | 'randrw';
  readonly blockBytes: number;
  readonly depth: number;
}

/** Of a mixed job: the reads, except for `requests`, which are all, and `writes`. */
export interface Figures {
  readonly iops: number;
  readonly megabytesPerSecond: number;
  readonly p50Micros: number;
  readonly p99Micros: number;
  readonly requests: number;
  /** Not a number if there were none. */
  readonly writes: { readonly p50Micros: number; readonly p99Micros: number };
}

const sideSchema = z.object({
  total_ios: z.number(),
  iops: z.number(),
  bw_bytes: z.number(),
  clat_ns: z.object({ percentile: z.record(z.string(), z.number()).optional() }),
});
const reportSchema = z.object({
  jobs: z.array(z.object({ error: z.number(), read: sideSchema, write: sideSchema })),
});

/** `seconds`: how long it takes by what it is told. */
async function fio(args: readonly string[], processors: string | undefined, seconds = 0): Promise<Figures> {
  const [file, ...first] = processors === undefined ? ['fio'] : ['taskset', '--cpu-list', processors, 'fio'];
  const { stdout } = await run(file as string, [...first, ...args, '--output-format=json'], {
    maxBuffer: 64 * 1024 * 1024,
    timeout: 600_000 + seconds * 1000,
  });
  return readReport(stdout);
}

/** Of the first job of a run with --output-format=json. */
function readReport(stdout: string): Figures {
  const report = reportSchema.parse(JSON.parse(stdout.slice(stdout.indexOf('{'))));
  const [job] = report.jobs;
  if (job === undefined || job.error !== 0) throw new Error(`fio failed: ${stdout}`);
  const side = job.read.total_ios > 0 ? job.read : job.write;
  const percentiles = (of: typeof side): Figures['writes'] => {
    const percentile = (name: string): number => (of.clat_ns.percentile?.[name] ?? Number.NaN) / 1000;
    return { p50Micros: percentile('50.000000'), p99Micros: percentile('99.000000') };
  };
  return {
    iops: side.iops,
    megabytesPerSecond: side.bw_bytes / 1e6,
    ...percentiles(side),
    requests: job.read.total_ios + job.write.total_ios,
    writes: percentiles(job.write),
  };
}

/** `processors`: where fio itself runs. Several exports: one fio job each, at once; the figures are their sum. */
export function runJob(
  job: Job,
  uris: readonly string[],
  sizeBytes: number,
  seconds: number,
  processors: string | undefined,
): Promise<Figures> {
  const common = ['--ioengine=nbd', '--group_reporting', ...jobOptions(job, sizeBytes, seconds)];
  const jobs = uris.flatMap((uri, index) => [`--name=job${index}`, `--uri=${uri}`]);
  return fio([...common, ...jobs], processors);
}

/** The same job on the file itself, without page cache and without a server: what the disk gives. */
export function runJobOnFile(
  job: Job,
  file: string,
  sizeBytes: number,
  seconds: number,
  processors: string | undefined,
): Promise<Figures> {
  const args = [
    '--ioengine=io_uring',
    '--direct=1',
    '--name=job',
    `--filename=${file}`,
    '--allow_file_create=0',
  ];
  return fio([...args, ...jobOptions(job, sizeBytes, seconds)], processors);
}

export interface DeviceRun {
  readonly device: string;
  readonly sizeBytes: number;
  readonly seconds: number;
  /** fdatasync after every write. */
  readonly isSynced: boolean;
}

/** The same job on a block device of the machine, past its page cache. */
export async function runJobOnDevice(machine: Machine, job: Job, on: DeviceRun): Promise<Figures> {
  const argv = [
    ['fio', '--ioengine=libaio', '--direct=1', '--name=job', `--filename=${on.device}`],
    jobOptions(job, on.sizeBytes, on.seconds),
    on.isSynced ? ['--fdatasync=1'] : [],
    ['--output-format=json'],
  ].flat();
  return readReport(await mustRun(machine, argv, { timeoutMs: 120_000 + on.seconds * 1000 }));
}

export async function fillDevice(machine: Machine, device: string, sizeBytes: number): Promise<void> {
  const argv = [
    ['fio', '--ioengine=libaio', '--direct=1', '--name=fill', `--filename=${device}`, '--rw=write'],
    ['--bs=1M', '--iodepth=4', `--size=${sizeBytes}`, '--end_fsync=1'],
  ].flat();
  await mustRun(machine, argv, { timeoutMs: 600_000 });
}

function jobOptions(job: Job, sizeBytes: number, seconds: number): string[] {
  return [
    `--rw=${job.pattern}`,
    `--bs=${job.blockBytes}`,
    `--iodepth=${job.depth}`,
    `--size=${sizeBytes}`,
    '--time_based',
    `--runtime=${seconds}`,
    '--norandommap',
    '--randrepeat=0',
  ];
}

/** Writes the whole export once, in pieces of `blockBytes`, and flushes. */
export async function fill(uri: string, sizeBytes: number, blockBytes: number): Promise<void> {
  const args = ['--ioengine=nbd', '--name=fill', '--rw=write', `--bs=${blockBytes}`, '--iodepth=16'];
  await fio([...args, `--size=${sizeBytes}`, `--uri=${uri}`, '--end_fsync=1'], undefined);
}

export interface Writing {
  readonly pattern: 'sequential' | 'random';
  readonly blockBytes: number;
  /** Each block is written once, until so much is. */
  readonly totalBytes: number;
  /** Untouched behind each block. */
  readonly skipBytes?: number;
  /** It takes about so long. */
  readonly seconds?: number;
}

/** Writes a part of the export, and flushes. */
export async function writePart(uri: string, sizeBytes: number, writing: Writing): Promise<void> {
  const { pattern, blockBytes, totalBytes, skipBytes = 0, seconds } = writing;
  const rw = pattern === 'random' ? 'randwrite' : skipBytes > 0 ? `write:${skipBytes}` : 'write';
  const args = [
    ['--ioengine=nbd', '--name=write', `--rw=${rw}`, `--bs=${blockBytes}`, '--iodepth=16', '--end_fsync=1'],
    [`--size=${sizeBytes}`, `--io_size=${totalBytes}`, `--uri=${uri}`, '--randrepeat=0'],
    seconds === undefined ? [] : [`--rate=${Math.ceil(totalBytes / seconds)}`],
  ];
  const { requests } = await fio(args.flat(), undefined, seconds);
  if (requests * blockBytes !== totalBytes)
    throw new Error(`fio wrote ${requests * blockBytes} bytes, not ${totalBytes}`);
}

export async function fillFile(file: string, sizeBytes: number): Promise<void> {
  const args = ['--ioengine=io_uring', '--direct=1', '--name=fill', '--rw=write', '--bs=1M', '--iodepth=4'];
  await fio([...args, `--size=${sizeBytes}`, `--filename=${file}`, '--end_fsync=1'], undefined);
}

/** Reads the whole export once: what the page cache can hold is in it afterwards. */
export async function warm(uri: string, sizeBytes: number): Promise<void> {
  const args = ['--ioengine=nbd', '--name=warm', '--rw=read', '--bs=4k', '--iodepth=32'];
  await fio([...args, `--size=${sizeBytes}`, `--uri=${uri}`], undefined);
}
