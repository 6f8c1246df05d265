// What every command that asks a daemon has in common: --api, --json, the connection, and its end.

import type { Command } from 'commander';
import { type ApiClient, connectApi } from './api-client.ts';
import { awaitDaemon } from './await-daemon.ts';
import { DEFAULT_DATA_DIRECTORY } from './config-options.ts';

export interface ClientOptions {
  readonly api?: string;
  readonly json?: boolean;
}

export const DEFAULT_API_PATH = `${DEFAULT_DATA_DIRECTORY}/api.sock`;

export function clientOptions(command: Command): Command {
  return command
    .option('--api <path>', `the daemon's API socket (HOLDFAST_API; default: ${DEFAULT_API_PATH})`)
    .option('--json', 'print JSON');
}

/** --api, else HOLDFAST_API, else where a daemon with the default data directory has it. */
function apiPath({ api }: ClientOptions): string {
  const fromEnvironment = process.env['HOLDFAST_API'];
  return (
    api ?? (fromEnvironment === undefined || fromEnvironment === '' ? DEFAULT_API_PATH : fromEnvironment)
  );
}

export async function withApi<T>(options: ClientOptions, use: (client: ApiClient) => Promise<T>): Promise<T> {
  const path = apiPath(options);
  // With --json standard error holds errors, as JSON, and nothing else.
  const say = (text: string): unknown => options.json || process.stderr.write(`holdfast: ${text}\n`);
  await awaitDaemon(path, { say });
  const client = connectApi(path);
  try {
    return await use(client);
  } finally {
    client.close();
  }
}
