// `holdfast status`: is the daemon there, and who is it.

import { Command } from 'commander';
import { type ClientOptions, clientOptions, withApi } from './client-command.ts';
import { printJson, printLine } from './output.ts';

export function statusCommand(): Command {
  const command = new Command('status').description('ask the daemon who it is');
  return clientOptions(command).action(async (options: ClientOptions) => {
    const status = await withApi(options, (api) => api.call('GetStatus', {}));
    if (options.json) return printJson(status);
    printLine(`node ${status.node}, holdfast ${status.version}, process ${status.processId}`);
    printLine(`serving since ${status.startedAt}, ${status.volumes} volumes, ${status.devices} devices`);
  });
}
