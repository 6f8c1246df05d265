import { readFileSync } from 'node:fs';
import { execa } from 'execa';
import { describe, expect, test } from 'vitest';
import { officialLines } from './official-descriptor.ts';
import { protoLines } from './proto-lines.ts';

const ours = readFileSync(new URL('../../proto/csi.proto', import.meta.url), 'utf8');

describe('proto/csi.proto', () => {
  test('has every name, number, type, label and mark of the official 1.12 descriptor, and nothing else', async () => {
    const official = await officialLines();
    expect(official.length).toBe(389);
    expect(protoLines(ours)).toEqual(official);
  }, 90_000);

  test.each([
    ['a number', 'string starting_token = 2', 'string starting_token = 3'],
    ['a type', 'int64 size_bytes = 1', 'int32 size_bytes = 1'],
    ['a label', 'repeated Topology preferred', 'Topology preferred'],
    ['a mark', 'GET_VOLUME = 12 [(alpha_enum_value) = true]', 'GET_VOLUME = 12'],
    ['a secret', 'secrets = 5 [(csi_secret) = true]', 'secrets = 5'],
    ['a oneof', 'oneof access_type', 'oneof access_kind'],
  ])('reads differently with %s changed', (_, from, to) => {
    expect(ours).toContain(from);
    expect(protoLines(ours.replace(from, to))).not.toEqual(protoLines(ours));
  });
});

test('src/csi/messages.ts is what the generator makes of proto/csi.proto', async () => {
  const check = execa(process.execPath, ['scripts/gen-types.ts', '--check'], {
    cwd: new URL('../..', import.meta.url),
    timeout: 20_000,
  });
  await expect(check).resolves.toMatchObject({ exitCode: 0 });
});
