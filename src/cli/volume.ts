// `holdfast volume …`: what a person does with volumes. Each command is one call of the control API.

import { resolve } from 'node:path';
import { Command } from 'commander';
import { HoldfastError } from '../core/errors.ts';
import { BLOCK_BYTES, MAX_VOLUME_BYTES, roundUp } from '../core/units.ts';
import type { Finding, VolumeView } from './api-schema.ts';
import { type ClientOptions, clientOptions, withApi } from './client-command.ts';
import { printJson, printLine, printTable } from './output.ts';
import { formatSize, parseSize } from './values.ts';
import { addCopyVerbs, copiesText, printLeft, replicasOption } from './volume-copies.ts';

interface CreateOptions extends ClientOptions {
  readonly size: string;
  readonly replicas: string;
  readonly pool?: string;
  readonly durability?: string;
  readonly failureMode?: string;
  readonly label: readonly string[];
}

/** Volumes are made of whole blocks: the size is rounded up. */
function sizeOption(text: string): number {
  const sizeBytes = parseSize(text);
  if (sizeBytes === undefined || sizeBytes === 0) {
    throw new HoldfastError('INVALID', `--size '${text}' is no size; write it like 10GiB`);
  }
  if (sizeBytes > MAX_VOLUME_BYTES) {
    throw new HoldfastError(
      'INVALID',
      `--size '${text}' is too large: a volume has at most ${formatSize(MAX_VOLUME_BYTES)}; ask for less, or for several`,
    );
  }
  return roundUp(sizeBytes, BLOCK_BYTES);
}

function labelOption(labels: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    labels.map((label) => {
      const equals = label.indexOf('=');
      if (equals < 1) throw new HoldfastError('INVALID', `--label '${label}' must be KEY=VALUE`);
      return [label.slice(0, equals), label.slice(equals + 1)];
    }),
  );
}

/** Where the volume is consumed, in a word or two. */
function placeOf(volume: VolumeView): string {
  const { node, readOnly, use } = volume.attachment;
  if (node === '') return '-';
  if (use === 'export') return `${node} (export)`;
  return `${volume.device === '' ? node : `${node}:${volume.device}`}${readOnly ? ' (read-only)' : ''}`;
}

function servedNow({ serving, device, deviceWaitingSince }: VolumeView): string {
  const waits = `requests of ${device} wait for a connection since ${deviceWaitingSince}`;
  return `${serving ? 'yes' : 'no'}${deviceWaitingSince === '' ? '' : `; ${waits}`}`;
}

function replicaText(replica: VolumeView['replicas'][number]): string {
  const { node, pool, role, state, allocatedBytes, resyncBytesLeft, problem } = replica;
  const left = resyncBytesLeft === 0 ? '' : `, ${formatSize(resyncBytesLeft)} left to copy`;
  const trouble = problem === '' ? '' : `: ${problem}`;
  return `${node}/${pool} ${role}, ${state}${left}, ${formatSize(allocatedBytes)} used${trouble}`;
}

function printVolume(volume: VolumeView, asJson: boolean | undefined): void {
  if (asJson) return printJson(volume);
  const { fileSystem, attachment } = volume;
  const lines: [string, string][] = [
    ['name', volume.name],
    ['id', volume.id],
    ['state', volume.state],
    ['size', `${formatSize(volume.sizeBytes)} (${volume.sizeBytes} bytes)`],
    ['durability', volume.durability],
    ['failure mode', volume.failureMode],
    [
      'file system',
      fileSystem === null ? 'none' : `${fileSystem.type}${fileSystem.made ? '' : ' (not made yet)'}`,
    ],
    ['attached', `${placeOf(volume)} (attachment ${attachment.number})`],
    ['served now', servedNow(volume)],
    ['epoch', String(volume.epoch)],
    ['in sync', copiesText(volume)],
    ...volume.replicas.map((replica): [string, string] => ['replica', replicaText(replica)]),
    ...Object.entries(volume.labels).map(([key, value]): [string, string] => ['label', `${key}=${value}`]),
  ];
  for (const [key, value] of lines) printLine(`${key.padEnd(13)} ${value}`);
}

function printFindings(findings: readonly Finding[]): void {
  const mark = { ok: 'ok      ', warning: 'WARNING ', problem: 'PROBLEM ' } as const;
  for (const { level, text, nextStep } of findings) {
    printLine(`${mark[level]}${text}`);
    if (nextStep !== '') printLine(`        next: ${nextStep}`);
  }
}

async function create(name: string, options: CreateOptions): Promise<void> {
  const request = {
    name,
    sizeBytes: sizeOption(options.size),
    pool: options.pool ?? '',
    replicas: replicasOption('--replicas', options.replicas, '; leave it out for 0'),
    durability: (options.durability ?? '') as '',
    failureMode: options.failureMode ?? '',
    labels: labelOption(options.label),
  };
  const volume = await withApi(options, (api) => api.call('CreateVolume', request));
  if (options.json) printJson(volume);
  else printLine(`volume ${volume.name} created: ${formatSize(volume.sizeBytes)}, id ${volume.id}`);
}

function primaryFirst({ replicas, primary }: VolumeView): VolumeView['replicas'] {
  return [...replicas].sort((a, b) => Number(b.node === primary) - Number(a.node === primary));
}

async function list(options: ClientOptions): Promise<void> {
  const response = await withApi(options, (api) => api.call('ListVolumes', {}));
  if (options.json) return printJson(response);
  printTable(
    ['NAME', 'SIZE', 'STATE', 'COPIES', 'ATTACHED', 'ID', 'IN SYNC'],
    response.volumes.map((volume) => [
      volume.name,
      formatSize(volume.sizeBytes),
      volume.state,
      primaryFirst(volume)
        .map(({ node, pool }) => `${node}/${pool}`)
        .join(','),
      placeOf(volume),
      volume.id,
      `${volume.inSync.length} of ${volume.replicas.length}`,
    ]),
  );
}

async function exportVolume(name: string, options: ClientOptions & { unix: string }): Promise<void> {
  const stop = new AbortController();
  process.once('SIGINT', () => stop.abort()).once('SIGTERM', () => stop.abort());
  await withApi(options, async (api) => {
    for await (const event of api.exportVolume(
      { volume: name, unixPath: resolve(options.unix) },
      stop.signal,
    )) {
      if (options.json) printJson(event);
      else printLine(`serving ${event.exportName} (${formatSize(event.sizeBytes)}) on ${event.unixPath}`);
    }
  });
}

export function volumeCommand(): Command {
  const volume = new Command('volume').description('volumes: create, show, use, remove');
  const verb = (usage: string, description: string): Command =>
    clientOptions(volume.command(usage).description(description));

  verb('create <name>', 'make a volume')
    .requiredOption('--size <size>', 'like 10GiB; rounded up to whole 4 KiB blocks')
    .option('--replicas <count>', 'copies beside the primary', '0')
    .option(
      '--pool <name>',
      "the pool (default: the daemon's first; in a cluster the one with the most room)",
    )
    .option('--durability <kind>', 'writeback (default) or writethrough')
    .option('--failure-mode <mode>', 'hard, soft (default), alwayson or a number')
    .option(
      '--label <key=value>',
      'a label; may be repeated',
      (label: string, all: string[]) => [...all, label],
      [],
    )
    .action(create);
  verb('ls', 'list volumes').action(list);
  verb('show <name>', 'show one volume').action(async (name: string, options: ClientOptions) => {
    printVolume(await withApi(options, (api) => api.call('GetVolume', { volume: name })), options.json);
  });
  verb('resize <name>', 'grow a volume')
    .requiredOption('--size <size>', 'the new size, like 20GiB')
    .action(async (name: string, options: ClientOptions & { size: string }) => {
      const sizeBytes = sizeOption(options.size);
      const resized = await withApi(options, (api) => api.call('ResizeVolume', { volume: name, sizeBytes }));
      if (options.json) printJson(resized);
      else printLine(`volume ${resized.name} has ${formatSize(resized.sizeBytes)} now`);
    });
  verb('delete <name>', 'delete a volume and its data').action(
    async (name: string, options: ClientOptions) => {
      const { left } = await withApi(options, (api) => api.call('DeleteVolume', { volume: name }));
      if (options.json) return printJson({ volume: name, left });
      printLine(`volume ${name} deleted`);
      printLeft(left);
    },
  );
  verb('attach <name>', "make it a block device of the daemon's node; prints the device")
    .option('--read-only', 'refuse writes')
    .action(async (name: string, options: ClientOptions & { readOnly?: boolean }) => {
      const request = { volume: name, readOnly: options.readOnly ?? false };
      const attached = await withApi(options, (api) => api.call('AttachVolume', request));
      if (options.json) printJson(attached);
      else printLine(attached.device);
    });
  verb('detach <name>', 'remove its block device')
    .option(
      '--force',
      'even while it is mounted or held open: its users get I/O errors; or when it is in use on a node that is gone',
    )
    .action(async (name: string, options: ClientOptions & { force?: boolean }) => {
      await withApi(options, (api) =>
        api.call('DetachVolume', { volume: name, force: options.force ?? false }),
      );
      if (options.json) printJson({ volume: name });
      else printLine(`volume ${name} detached`);
    });
  verb('export <name>', 'serve it to NBD clients on a Unix socket until this command ends')
    .requiredOption('--unix <path>', 'the socket to make')
    .action(exportVolume);
  addCopyVerbs(verb);
  verb('explain <name>', 'say what state it is in, why, and what to do').action(
    async (name: string, options: ClientOptions) => {
      const response = await withApi(options, (api) => api.call('ExplainVolume', { volume: name }));
      if (options.json) printJson(response);
      else printFindings(response.findings);
    },
  );
  return volume;
}
