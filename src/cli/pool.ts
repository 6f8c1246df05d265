// `holdfast pool …`: where replicas live and how much room there is.

import { Command } from 'commander';
import { type ClientOptions, clientOptions, withApi } from './client-command.ts';
import { printJson, printLine, printTable } from './output.ts';
import { formatSize } from './values.ts';

async function list(options: ClientOptions): Promise<void> {
  const response = await withApi(options, (api) => api.call('ListPools', { pool: '' }));
  if (options.json) return printJson(response);
  printTable(
    ['NAME', 'NODE', 'SIZE', 'FREE', 'PROVISIONED', 'LARGEST NEW', 'I/O', 'DIRECTORY', 'STATE'],
    response.pools.map((pool) => [
      pool.name,
      pool.node,
      formatSize(pool.totalBytes),
      formatSize(pool.availableBytes),
      formatSize(pool.provisionedBytes),
      formatSize(pool.creatableBytes),
      pool.ioMode,
      pool.directory,
      pool.problem === '' ? 'open' : `not open: ${pool.problem}`,
    ]),
  );
}

async function forget(name: string, options: ClientOptions & { force?: boolean }): Promise<void> {
  await withApi(options, (api) => api.call('ForgetPool', { pool: name, force: options.force ?? false }));
  if (options.json) printJson({ pool: name });
  else printLine(`${name} is forgotten: what its directory holds now is taken as it is`);
}

export function poolCommand(): Command {
  const pool = new Command('pool').description('pools: directories that hold replicas');
  clientOptions(pool.command('ls').description('list pools and their room')).action(list);
  clientOptions(
    pool
      .command('forget')
      .description('forget which pool this was, after its disk is lost for good: a new one may take its name')
      .argument('<name>')
      .option('--force', 'even while volumes have their copy in it'),
  ).action(forget);
  return pool;
}
