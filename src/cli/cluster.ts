// `holdfast cluster …`: what concerns all daemons together.

import { Command } from 'commander';
import { resolve } from 'node:path';
import { HoldfastError } from '../core/errors.ts';
import type { Response } from './api-schema.ts';
import { type ClientOptions, clientOptions, withApi } from './client-command.ts';
import { createKeyFile, newKeyText } from '../control/cluster-key.ts';
import { printJson, printLine, printTable } from './output.ts';
import { formatSize } from './values.ts';

async function keygen(file: string | undefined, options: { json?: boolean }): Promise<void> {
  if (file === undefined) {
    const key = newKeyText().trim();
    return options.json ? printJson({ key }) : printLine(key);
  }
  const path = resolve(file);
  await createKeyFile(path);
  if (options.json) printJson({ file: path });
  else printLine(`${path} holds a new key: copy it to every node, and start each daemon with --cluster-key`);
}

function printStatus(found: Response<'GetClusterStatus'>): void {
  const { nodes, nodesAlive, nodesCordoned, volumes, volumesDegraded, leader, maintenanceSince } = found;
  const cordoned = nodesCordoned === 0 ? '' : `, ${nodesCordoned} cordoned`;
  const degraded =
    volumesDegraded === 0 ? '' : `, ${volumesDegraded} of them with a copy that is not in sync`;
  printLine(`${nodesAlive} of ${nodes} nodes are alive${cordoned}; ${volumes} volumes${degraded}`);
  printLine(
    leader === '' ? 'no daemon does the housekeeping now' : `housekeeping: the daemon of node ${leader}`,
  );
  if (maintenanceSince !== '')
    printLine(`maintenance since ${maintenanceSince}: no node is taken for lost, no copy replaced for that`);
  printLine(`store ${found.storeIdentity}`);
}

async function status(options: ClientOptions): Promise<void> {
  const found = await withApi(options, (api) => api.call('GetClusterStatus', {}));
  if (options.json) printJson(found);
  else printStatus(found);
}

async function maintenance(state: string, options: ClientOptions): Promise<void> {
  if (state !== 'on' && state !== 'off') {
    throw new HoldfastError('INVALID', `'${state}' must be on or off`);
  }
  const found = await withApi(options, (api) => api.call('SetMaintenance', { on: state === 'on' }));
  if (options.json) printJson(found);
  else printStatus(found);
}

interface RebuildOptions extends ClientOptions {
  readonly dryRun?: boolean;
  readonly nodes?: string;
  readonly force?: boolean;
}

const VERDICTS: Readonly<Record<string, string>> = {
  inSync: 'serves',
  waitsForNode: 'waits for a node',
  waitsForPerson: 'waits for a person',
};

async function rebuild(options: RebuildOptions): Promise<void> {
  const { dryRun = false, force = false, nodes = '0' } = options;
  if (!/^\d+$/.test(nodes)) throw new HoldfastError('INVALID', `--nodes ${nodes}: give a number of nodes`);
  const request = { dryRun, force, nodes: Number(nodes) };
  const found = await withApi(options, (api) => api.call('RebuildCatalog', request));
  if (options.json) printJson(found);
  else printRebuild(found, dryRun);
}

function printRebuild({ nodes, problems, volumes }: Response<'RebuildCatalog'>, dryRun: boolean): void {
  printTable(
    ['VOLUME', 'SIZE', 'STATE', 'EPOCH', 'PRIMARY', 'IN SYNC', 'TO FILL'],
    volumes.map((volume) => [
      volume.name,
      formatSize(volume.sizeBytes),
      VERDICTS[volume.verdict] ?? volume.verdict,
      String(volume.epoch),
      volume.primary,
      volume.inSync.join(', '),
      volume.toFill.join(', '),
    ]),
  );
  for (const { name, verdict, reason, notes } of volumes) {
    if (verdict !== 'inSync') printLine(`${name}: ${reason}`);
    for (const note of notes) printLine(`${name}: ${note}`);
  }
  for (const { node, problem } of problems) printLine(`not read, node "${node}": ${problem}`);
  printLine(`${nodes.length} nodes have answered: ${nodes.join(', ')}`);
  if (dryRun)
    printLine(
      `nothing was changed; if these are all nodes that had volumes: "holdfast cluster rebuild-catalog --nodes ${nodes.length}"`,
    );
}

export function clusterCommand(): Command {
  const cluster = new Command('cluster').description('the cluster: its state and its key');
  clientOptions(cluster.command('status').description('how many nodes are alive, and who leads')).action(
    status,
  );
  clientOptions(
    cluster
      .command('maintenance')
      .description('on: no node is taken for lost and no copy replaced for that, until it is off')
      .argument('<state>', 'on or off'),
  ).action(maintenance);
  clientOptions(
    cluster
      .command('rebuild-catalog')
      .description('write the volumes of a lost store anew, from the disks of all nodes, into an empty one')
      .option('--dry-run', 'only say what would be written')
      .option('--nodes <count>', 'refuse unless so many nodes have answered')
      .option(
        '--force',
        'also where a node, a pool or a copy cannot be read; what may be there waits for it',
      ),
  ).action(rebuild);
  cluster
    .command('keygen')
    .description('make a key for a new cluster; without a file it is printed')
    .argument('[file]')
    .option('--json', 'print JSON')
    .action(keygen);
  return cluster;
}
