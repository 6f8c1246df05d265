import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { keepNoted, NodeRecord, requireKnownStore } from '../../src/control/node-record.ts';

let directory: string;
let path: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'holdfast-node-'));
  path = join(directory, 'node.json');
});
afterEach(() => rm(directory, { recursive: true }));

const storeAt = (identity: string, revision: number) => ({ identity, revision: async () => revision });

async function start(identity: string, revision: number, accept = false): Promise<NodeRecord> {
  const record = await NodeRecord.load(path, 'a');
  await requireKnownStore(record, 'a', storeAt(identity, revision), accept);
  return record;
}

test('a data directory belongs to the node that first served from it', async () => {
  expect((await NodeRecord.load(path, 'b')).knowsStore).toBe(false);
  await start('s', 1);
  expect((await NodeRecord.load(path, 'a')).knowsStore).toBe(true);
  await expect(NodeRecord.load(path, 'b')).rejects.toMatchObject({
    code: 'INVALID',
    message: expect.stringContaining('--node-name a'),
  });
});

test('another store, or one that has gone back, is refused until it is accepted, and then is the known one', async () => {
  await start('s', 7);
  await start('s', 7);
  await start('s', 9);
  await expect(start('t', 20)).rejects.toMatchObject({ code: 'CORRUPT' });
  await expect(start('s', 8)).rejects.toMatchObject({
    code: 'CORRUPT',
    message: expect.stringMatching(/revision 8.*has seen 9.*--accept-store any/),
  });
  await start('t', 3, true);
  await start('t', 3);
  await expect(start('s', 9)).rejects.toMatchObject({ code: 'CORRUPT' });
});

test('every start in a cluster has a higher number, whatever becomes of the store', async () => {
  const first = await start('s', 7);
  expect(await first.countStart()).toBe(1);
  await first.note('a', { identity: 's', revision: 9 });
  expect(await (await start('s', 9)).countStart()).toBe(2);
  const other = await start('t', 1, true);
  expect(await other.countStart()).toBe(3);
});

test('the revision is noted once more at the end, and a store that failed does not keep it from ending', async () => {
  const record = await start('s', 7);
  const problems: string[] = [];
  await keepNoted(record, 'a', storeAt('s', 12), (reason) => problems.push(reason))();
  await expect(start('s', 11)).rejects.toMatchObject({ code: 'CORRUPT' });
  const failed = { identity: 's', revision: () => Promise.reject(new Error('it failed')) };
  await keepNoted(record, 'a', failed, (reason) => problems.push(reason))();
  expect(problems).toEqual(['it failed']);
});

test('a record that cannot be understood is refused with what to do, and a half-written one is not seen', async () => {
  await start('s', 7);
  await writeFile(`${path}.new`, '{"version":1,"no');
  await start('s', 8);
  await writeFile(path, '{"version":2}');
  await expect(NodeRecord.load(path, 'a')).rejects.toMatchObject({ code: 'CORRUPT' });
});
