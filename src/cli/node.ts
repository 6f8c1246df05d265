// `holdfast node …`: the nodes of the cluster, whether new copies may go to them, and how they are emptied.

import { setTimeout as sleep } from 'node:timers/promises';
import { Command } from 'commander';
import type { NodeView } from './api-schema.ts';
import { type ClientOptions, clientOptions, withApi } from './client-command.ts';
import { printJson, printLine, printTable } from './output.ts';
import { formatSize } from './values.ts';

const LOOK_INTERVAL_MS = 1000;

function stateOf(node: NodeView): string {
  const flags = [node.draining ? 'draining' : node.cordoned ? 'cordoned' : ''].filter((flag) => flag !== '');
  const since = node.lostAt === '' ? '' : ` since ${node.lostAt}`;
  return [node.alive ? 'alive' : `not alive${since}`, ...flags].join(', ');
}

function poolText(pool: NodeView['pools'][number]): string {
  if (pool.problem !== '') return `${pool.name}: not open`;
  return `${pool.name}: ${formatSize(pool.availableBytes)} of ${formatSize(pool.totalBytes)} free`;
}

async function list(options: ClientOptions): Promise<void> {
  const response = await withApi(options, (api) => api.call('ListNodes', {}));
  if (options.json) return printJson(response);
  printTable(
    ['NAME', 'STATE', 'ZONE', 'ADDRESS', 'POOLS', 'VERSION'],
    response.nodes.map((node) => [
      node.name,
      stateOf(node),
      node.zone,
      node.address,
      node.pools.map(poolText).join('; '),
      node.version,
    ]),
  );
}

async function show(name: string, options: ClientOptions): Promise<void> {
  const node = await withApi(options, (api) => api.call('GetNode', { node: name }));
  if (options.json) return printJson(node);
  printTable(
    ['FIELD', 'VALUE'],
    [
      ['name', node.name],
      ['state', stateOf(node)],
      ...(node.problem === '' ? [] : [['problem', node.problem]]),
      ['id', node.id],
      ['address', node.address],
      ['zone', node.zone],
      ...Object.entries(node.labels).map(([key, value]): [string, string] => ['label', `${key}=${value}`]),
      ...node.pools.map((pool): [string, string] => [
        'pool',
        pool.problem === ''
          ? `${poolText(pool)}, ${formatSize(pool.provisionedBytes)} promised to volumes`
          : `${pool.name} is not open: ${pool.problem}`,
      ]),
      ['copies', `${node.copies}, ${node.primaries} of them primaries`],
      ['version', node.version],
      ['started', node.startedAt],
    ],
  );
}

function setting(cordoned: boolean): (name: string, options: ClientOptions) => Promise<void> {
  return async (name, options) => {
    const node = await withApi(options, (api) => api.call('SetCordoned', { node: name, cordoned }));
    if (options.json) return printJson(node);
    printLine(cordoned ? `${name} takes no new copies; those it has stay` : `${name} takes new copies`);
  };
}

interface DrainOptions extends ClientOptions {
  readonly wait?: boolean;
}

/** The housekeeping does the work; this asks for it, and with --wait looks until it is done. */
async function drain(name: string, options: DrainOptions): Promise<void> {
  const node = await withApi(options, async (api) => {
    let found = await api.call('DrainNode', { node: name });
    let told = '';
    while (options.wait === true && found.draining && found.copies > 0) {
      const left = remaining(found);
      // Progress is for people, who may be reading JSON.
      if (left !== told && !options.json) printLine(left);
      told = left;
      await sleep(LOOK_INTERVAL_MS);
      found = await api.call('GetNode', { node: name });
    }
    return found;
  });
  if (options.json) return printJson(node);
  printLine(node.copies === 0 ? `${name} holds nothing any more` : remaining(node));
  if (!node.draining) printLine(`${name} is not drained any more: somebody uncordoned it`);
}

function remaining({ name, copies, primaries }: NodeView): string {
  return `${name} holds ${copies} copies, ${primaries} of them primaries; "holdfast volume explain" says what keeps one there`;
}

export function nodeCommand(): Command {
  const node = new Command('node').description('nodes: the machines of the cluster');
  clientOptions(node.command('ls').description('list the nodes')).action(list);
  clientOptions(node.command('show').description('show one node').argument('<name>')).action(show);
  clientOptions(
    node.command('cordon').description('no new copies there; those it has stay').argument('<name>'),
  ).action(setting(true));
  clientOptions(
    node.command('uncordon').description('new copies may go there again').argument('<name>'),
  ).action(setting(false));
  clientOptions(
    node
      .command('drain')
      .description('its primaries and copies go to other nodes; uncordon ends that')
      .argument('<name>')
      .option('--wait', 'until it holds nothing'),
  ).action(drain);
  return node;
}
