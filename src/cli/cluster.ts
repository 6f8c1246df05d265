// `holdfast cluster …`: what concerns all daemons together.

import { Command } from 'commander';
import { resolve } from 'node:path';
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

export function clusterCommand(): Command {
  const cluster = new Command('cluster').description('the cluster: its key');
  cluster
    .command('keygen')
    .description('make a key for a new cluster; without a file it is printed')
    .argument('[file]')
    .option('--json', 'print JSON')
    .action(keygen);
  return cluster;
}
