// What clients see of a volume whose daemon is killed under them, several times: judged sector by sector.

import { afterEach, beforeEach, expect, test } from 'vitest';
import { HistoryClient, VolumeHistory } from '../support/history-client.ts';
import { type Child, type Daemon, until, Workplace } from './daemon.fixture.ts';

const KILLS = 3;

let place: Workplace;

beforeEach(async () => {
  place = await Workplace.create();
});
afterEach(async () => await place.dispose());

async function serve(daemon: Daemon, socket: string): Promise<Child> {
  const child = place.child(['volume', 'export', 'data', '--unix', socket, '--api', daemon.api]);
  await until('the export is ready', () => child.lines.length > 0 || child.process.exitCode !== null);
  return child;
}

test('one copy loses nothing that was acknowledged, and shows nothing twice, when its daemon is killed under load', async () => {
  const history = new VolumeHistory();
  let unanswered = 0;
  for (let kills = 0; kills <= KILLS; kills += 1) {
    // Nothing of the process before can still happen: this one has the lock that its requests held.
    const daemon = await place.serving();
    history.writerFenced(kills);
    if (kills === 0) await daemon.json('volume', 'create', 'data', '--size', '8MiB');
    const socket = place.path(`${kills}.sock`);
    const exported = await serve(daemon, socket);
    const client = await HistoryClient.connect(history, { socketPath: socket, exportName: 'data' });
    await client.readAll();
    expect(history.complaints).toEqual([]);
    const load = client.load({ depth: 16 });
    await until('requests were answered', () => load.requests > 500);
    await daemon.end('SIGKILL');
    expect((await load.ended).errors).toEqual(new Map());
    unanswered += history.unansweredWrites;
    await exported.end();
  }
  expect(unanswered).toBeGreaterThan(0);
}, 60_000);
