// `holdfast cluster …`: what concerns all daemons together.

import { Command } from 'commander';
import { resolve } from 'node:path';
import { type ClientOptions, clientOptions, withApi } from './client-command.ts';
import { createKeyFile, newKeyText } from '../control/cluster-key.ts';
import { printJson, printLine } from './output.ts';

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

async function status(options: ClientOptions): Promise<void> {
  const found = await withApi(options, (api) => api.call('GetClusterStatus', {}));
  if (options.json) return printJson(found);
  const { nodes, nodesAlive, nodesCordoned, volumes, leader, storeIdentity } = found;
  const cordoned = nodesCordoned === 0 ? '' : `, ${nodesCordoned} cordoned`;
  printLine(`${nodesAlive} of ${nodes} nodes are alive${cordoned}; ${volumes} volumes`);
  printLine(
    leader === '' ? 'no daemon does the housekeeping now' : `housekeeping: the daemon of node ${leader}`,
  );
  printLine(`store ${storeIdentity}`);
}

export function clusterCommand(): Command {
  const cluster = new Command('cluster').description('the cluster: its state and its key');
  clientOptions(cluster.command('status').description('how many nodes are alive, and who leads')).action(
    status,
  );
  cluster
    .command('keygen')
    .description('make a key for a new cluster; without a file it is printed')
    .argument('[file]')
    .option('--json', 'print JSON')
    .action(keygen);
  return cluster;
}
