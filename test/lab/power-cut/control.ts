// Runs inside the guest, beside the daemon: attaches the volume under test, then creates and deletes others until
// the power goes. Every answer, and every question before it, is one line of a file on the host.
//
//   node control.ts API_SOCKET EVENTS_FILE ROUND

import { appendFileSync, existsSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ApiClient, connectApi } from '../../../src/cli/api-client.ts';
import { errorText } from '../../../src/core/errors.ts';
import type { ControlEvent } from './holdfast.ts';

const [apiPath = '', eventsPath = '', round = ''] = process.argv.slice(2);
const SMALL_BYTES = 1024 * 1024;

function tell(event: ControlEvent): void {
  appendFileSync(eventsPath, `${JSON.stringify(event)}\n`);
}

async function create(api: ApiClient, name: string, sizeBytes: number): Promise<string> {
  tell({ kind: 'creating', name });
  const request = {
    name,
    sizeBytes,
    pool: '',
    replicas: 0,
    durability: '',
    failureMode: '',
    labels: {},
  } as const;
  const { id } = await api.call('CreateVolume', request);
  tell({ kind: 'created', name });
  return id;
}

async function listedOnceItAnswers(api: ApiClient): Promise<{ id: string; name: string }[]> {
  for (let tries = 0; ; tries++) {
    try {
      return (await api.call('ListVolumes', {})).volumes;
    } catch (error) {
      if (tries === 600) throw error;
      await sleep(50);
    }
  }
}

async function main(): Promise<void> {
  while (!existsSync(apiPath)) await sleep(50);
  const api = connectApi(apiPath);
  const volumes = await listedOnceItAnswers(api);
  tell({ kind: 'listed', names: volumes.map((volume) => volume.name) });
  const id =
    volumes.find((volume) => volume.name === 'data')?.id ??
    (await create(api, 'data', Number(process.argv[5])));
  const { device } = await api.call('AttachVolume', { volume: 'data', readOnly: false });
  const survivor = volumes.find((volume) => volume.name !== 'data')?.name;
  if (survivor !== undefined) {
    await api.call('AttachVolume', { volume: survivor, readOnly: false });
    await api.call('DetachVolume', { volume: survivor, force: false });
  }
  tell({ kind: 'attached', id, device });

  while (!existsSync(`${eventsPath}.go`)) await sleep(20);
  const small = volumes.map((volume) => volume.name).filter((name) => name !== 'data');
  for (let count = 0; ; count++) {
    const name = `round-${round}-${count}`;
    await create(api, name, SMALL_BYTES);
    small.push(name);
    const victim = count % 2 === 1 ? small.shift() : undefined;
    if (victim !== undefined) {
      tell({ kind: 'deleting', name: victim });
      await api.call('DeleteVolume', { volume: victim });
      tell({ kind: 'deleted', name: victim });
    }
    await sleep(20);
  }
}

try {
  await main();
} catch (error) {
  tell({ kind: 'failed', message: errorText(error) });
  process.exitCode = 1;
}
