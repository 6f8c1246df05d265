// `holdfast volume set-replicas|set-failure-mode|move|timeline`: what a person does with the copies of a volume.

import type { Command } from 'commander';
import { HoldfastError } from '../core/errors.ts';
import type { VolumeView } from './api-schema.ts';
import { type ClientOptions, withApi } from './client-command.ts';
import { printJson, printLine, printTable } from './output.ts';

type Verb = (usage: string, description: string) => Command;

export interface NodeReason {
  readonly node: string;
  readonly reason: string;
}

export function replicasOption(what: string, text: string, hint = ''): number {
  if (!/^[0-5]$/.test(text)) {
    throw new HoldfastError(
      'INVALID',
      `${what} '${text}' must be a whole number from 0 to 5, the copies beside the primary${hint}`,
    );
  }
  return Number(text);
}

export function printLeft(left: readonly NodeReason[]): void {
  for (const { node, reason } of left)
    printLine(`its copy on node ${node} goes as soon as that node can remove it: ${reason}`);
}

/** `a (primary), b; not in sync: c` */
export function copiesText({ replicas, primary, inSync }: VolumeView): string {
  const good = inSync.map((node) => (node === primary ? `${node} (primary)` : node));
  const others = replicas.map(({ node }) => node).filter((node) => !inSync.includes(node));
  return others.length === 0 ? good.join(', ') : `${good.join(', ')}; not in sync: ${others.join(', ')}`;
}

async function setReplicas(name: string, count: string, options: ClientOptions): Promise<void> {
  const request = { volume: name, replicas: replicasOption('COUNT', count) };
  const response = await withApi(options, (api) => api.call('SetReplicas', request));
  if (options.json) return printJson(response);
  printLine(`volume ${response.volume.name} has its copies on ${copiesText(response.volume)}`);
  printLeft(response.left);
}

async function setFailureMode(name: string, failureMode: string, options: ClientOptions): Promise<void> {
  const request = { volume: name, failureMode };
  const volume = await withApi(options, (api) => api.call('SetFailureMode', request));
  if (options.json) printJson(volume);
  else printLine(`volume ${volume.name} has the failure mode ${volume.failureMode}`);
}

async function move(name: string, node: string, options: ClientOptions): Promise<void> {
  const volume = await withApi(options, (api) => api.call('MoveVolume', { volume: name, node }));
  if (options.json) printJson(volume);
  else printLine(`volume ${volume.name} has its primary on ${volume.primary}, in epoch ${volume.epoch}`);
}

async function readmit(name: string, node: string, options: ClientOptions): Promise<void> {
  const volume = await withApi(options, (api) => api.call('ReadmitCopy', { volume: name, node }));
  if (options.json) printJson(volume);
  else printLine(`the copy of volume ${volume.name} on node ${node} is taken up again`);
}

interface PromoteOptions extends ClientOptions {
  readonly loseWrites?: boolean;
  readonly off: readonly string[];
}

async function promote(name: string, node: string, options: PromoteOptions): Promise<void> {
  if (options.loseWrites !== true) {
    if (options.off.length > 0) throw new HoldfastError('INVALID', '--off is for --lose-writes only');
    return await move(name, node, options);
  }
  const request = { volume: name, node, off: [...options.off] };
  const volume = await withApi(options, (api) => api.call('ForcePromotion', request));
  if (options.json) return printJson(volume);
  printLine(
    `volume ${volume.name} is what node ${node} has of it, in epoch ${volume.epoch}; other copies are kept aside`,
  );
  printLine(
    `attach it again, check its data, and give it copies: "holdfast volume set-replicas ${volume.name} COUNT"`,
  );
}

async function timeline(name: string, options: ClientOptions): Promise<void> {
  const found = await withApi(options, (api) => api.call('GetTimeline', { volume: name }));
  if (options.json) return printJson(found);
  printTable(
    ['AT', 'NODE', 'WHAT'],
    found.lines.map(({ at, node, text }) => [at, node, text]),
  );
  for (const { node, reason } of found.missing) printLine(`what node ${node} saw is missing: ${reason}`);
}

export function addCopyVerbs(verb: Verb): void {
  verb('set-replicas <name> <count>', 'have this many copies beside the primary').action(setReplicas);
  verb(
    'set-failure-mode <name> <mode>',
    'hard, soft, alwayson, or how many replicas requests wait for',
  ).action(setFailureMode);
  verb('move <name> <node>', 'give the primary to the copy on that node; a pause of milliseconds').action(
    move,
  );
  verb('readmit <name> <node>', 'take up at once a copy that is held out for leaving again and again').action(
    readmit,
  );
  verb(
    'promote <name> <node>',
    'as move; or, when nothing else is left, make the volume of a copy that lacks writes',
  )
    .option('--lose-writes', 'what this copy lacks is lost for good, and what uses the volume gets errors')
    .option(
      '--off <node>',
      'this machine is off, by your word; may be repeated',
      (node: string, all: string[]) => [...all, node],
      [],
    )
    .action(promote);
  verb(
    'timeline <name>',
    'what happened to its copies: who fell silent, who took over, when it was over',
  ).action(timeline);
}
