// `holdfast pool …`: where replicas live and how much room there is.

import { Command } from 'commander';
import { type ClientOptions, clientOptions, withApi } from './client-command.ts';
import { printJson, printTable } from './output.ts';
import { formatSize } from './values.ts';

async function list(options: ClientOptions): Promise<void> {
  const response = await withApi(options, (api) => api.call('ListPools', { pool: '' }));
  if (options.json) return printJson(response);
  printTable(
    ['NAME', 'NODE', 'SIZE', 'FREE', 'PROVISIONED', 'LARGEST NEW', 'I/O', 'DIRECTORY'],
    response.pools.map((pool) => [
      pool.name,
      pool.node,
      formatSize(pool.totalBytes),
      formatSize(pool.availableBytes),
      formatSize(pool.provisionedBytes),
      formatSize(pool.creatableBytes),
      pool.ioMode,
      pool.directory,
    ]),
  );
}

export function poolCommand(): Command {
  const pool = new Command('pool').description('pools: directories that hold replicas');
  clientOptions(pool.command('ls').description('list pools and their room')).action(list);
  return pool;
}
