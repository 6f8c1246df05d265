import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { isHoldfastError } from '../../src/core/errors.ts';
import { EXTENT_BYTES, GENERATION_BLOCKS_PER_EXTENT, MAX_VOLUME_BYTES } from '../../src/core/units.ts';
import type { VolumeConfig } from '../../src/replication/config.ts';
import * as frames from '../../src/replication/frames.ts';
import type { ControlMessage, Hello, SessionWelcome, StreamWelcome } from '../../src/replication/frames.ts';
import {
  decodeControl,
  encodeControl,
  helloVersions,
  welcomeVersion,
} from '../../src/replication/wire-control.ts';
import { MAX_HOT_RUNS } from '../../src/replication/wire-extents.ts';
import { FRAME_TYPES, MAX_CONTROL_BYTES, PAYLOAD_CONTROL } from '../../src/replication/wire-types.ts';

const MAX_EXTENTS = MAX_VOLUME_BYTES / EXTENT_BYTES;

const config: VolumeConfig = {
  volumeId: 'vol-1',
  sizeBytes: 1_073_741_824,
  lineage: 'lin-1',
  epoch: 7,
  primary: { replicaId: 'r1', opening: 'opening-1' },
  inSync: [
    { replicaId: 'r1', incarnation: 'inc-1' },
    { replicaId: 'r2', incarnation: null },
  ],
  replicas: [
    { id: 'r1', node: 'node-a', outSince: null, needsFullCopy: false, bootId: 'boot-1', report: null },
    { id: 'r2', node: 'node-b', outSince: null, needsFullCopy: false, bootId: null, report: null },
    {
      id: 'r3',
      node: 'node-c',
      outSince: 5,
      needsFullCopy: true,
      bootId: 'boot-3',
      report: { incarnation: 'inc-4', descendsFrom: 'inc-3' },
    },
  ],
  attachment: { number: 3, node: 'node-a' },
  durability: 'writeback',
  failureMode: 'soft',
};

const streamHello: Hello = {
  kind: 'stream',
  volumeId: 'vol-1',
  config,
  revision: 12,
  replicaId: 'r2',
  stream: 4,
  watermark: 99,
  role: 'member',
};
const sessionHello: Hello = {
  kind: 'session',
  volumeId: 'vol-1',
  node: 'node-a',
  attachment: 3,
  session: 2,
  epoch: 7,
};
const streamWelcome: StreamWelcome = {
  kind: 'stream',
  incarnation: 'inc-2',
  opening: 'opening-2',
  bootId: 'boot-2',
  lastInSyncEpoch: 6,
  suspects: [{ offsetBytes: 4096, lengthBytes: 512 }],
  hotExtents: [1, 2, 3, 9],
  isDeltaBase: true,
};
const sessionWelcome: SessionWelcome = {
  kind: 'session',
  epoch: 7,
  opening: 'opening-1',
  sizeBytes: 1_073_741_824,
};

const MESSAGES: readonly (readonly [name: string, type: number, message: ControlMessage])[] = [
  ['a Hello of a stream', frames.FRAME_HELLO, streamHello],
  ['a Hello of a session', frames.FRAME_HELLO, sessionHello],
  ['a Welcome of a stream', frames.FRAME_WELCOME, streamWelcome],
  ['a Welcome of a session', frames.FRAME_WELCOME, sessionWelcome],
  ['a Refused', frames.FRAME_REFUSED, { reason: 'notPrimary', epoch: 8 }],
  [
    'an EpochMessage',
    frames.FRAME_EPOCH,
    {
      config,
      revision: 12,
      role: 'joining',
      unsettled: [{ sequence: 9, offsetBytes: 512, lengthBytes: 512 }],
    },
  ],
  ['a PromoteMessage', frames.FRAME_PROMOTE, { config, revision: 12 }],
  ['a MovedMessage', frames.FRAME_MOVED, { epoch: 8 }],
];

function encode(type: number, message: ControlMessage): Uint8Array {
  return encodeControl(type, message, 1);
}

function asBytes(value: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}

function asText(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes);
}

/** The text of the refusal; fails on anything but CORRUPT. undefined: not refused. */
function refusalOf(decode: () => unknown): string | undefined {
  try {
    decode();
    return undefined;
  } catch (error) {
    if (isHoldfastError(error, 'CORRUPT')) return error.message;
    throw error;
  }
}

describe('the bytes of a message', () => {
  test.each([
    [
      frames.FRAME_HELLO,
      sessionHello,
      '{"kind":"session","volumeId":"vol-1","node":"node-a","attachment":3,"session":2,"epoch":7,' +
        '"wireVersion":{"min":1,"max":1}}',
    ],
    [
      frames.FRAME_WELCOME,
      streamWelcome,
      '{"kind":"stream","incarnation":"inc-2","opening":"opening-2","bootId":"boot-2","lastInSyncEpoch":6,' +
        '"suspects":[{"offsetBytes":4096,"lengthBytes":512}],"hotExtents":[1,3,9,1],"isDeltaBase":true,' +
        '"wireVersion":1}',
    ],
    [
      frames.FRAME_PROMOTE,
      { config, revision: 12 },
      '{"config":{"volumeId":"vol-1","sizeBytes":1073741824,"lineage":"lin-1","epoch":7,' +
        '"primary":{"replicaId":"r1","opening":"opening-1"},"inSync":[{"replicaId":"r1","incarnation":"inc-1"},' +
        '{"replicaId":"r2","incarnation":null}],"replicas":[{"id":"r1","node":"node-a","outSince":null,' +
        '"needsFullCopy":false,"bootId":"boot-1","report":null},{"id":"r2","node":"node-b","outSince":null,' +
        '"needsFullCopy":false,"bootId":null,"report":null},{"id":"r3","node":"node-c","outSince":5,' +
        '"needsFullCopy":true,"bootId":"boot-3","report":{"incarnation":"inc-4","descendsFrom":"inc-3"}}],' +
        '"attachment":{"number":3,"node":"node-a"},"durability":"writeback","failureMode":"soft"},"revision":12}',
    ],
    [frames.FRAME_REFUSED, { reason: 'busy', epoch: 8 } as const, '{"reason":"busy","epoch":8}'],
    [frames.FRAME_MOVED, { epoch: 8 }, '{"epoch":8}'],
  ] satisfies [number, ControlMessage, string][])('of type %i are these', (type, message, text) => {
    expect(asText(encode(type, message))).toBe(text);
  });

  test('of stamps are these', () => {
    const stamps = Array.from({ length: GENERATION_BLOCKS_PER_EXTENT }, (_, index) =>
      index < 2 ? index + 1 : 0,
    );
    const bytes = encode(frames.FRAME_STAMPS, { extent: 0x01_02_03, stamps });
    expect(bytes.length).toBe(260);
    expect(Buffer.from(bytes.subarray(0, 16)).toString('hex')).toBe('03020100010000000200000000000000');
    expect(bytes.subarray(16).every((byte) => byte === 0)).toBe(true);
  });
});

// ---- round trips

const id = fc.string({
  minLength: 1,
  maxLength: 20,
  unit: fc.constantFrom('a', '0', '-', '"', '\\', 'é', '\n'),
});
const epoch = fc.nat(0xffff_ffff);
const count = fc.maxSafeNat();
const sizeBytes = fc.integer({ min: 1, max: MAX_VOLUME_BYTES });
const anyConfig: fc.Arbitrary<VolumeConfig> = fc
  .record({
    ids: fc.uniqueArray(id, { minLength: 1, maxLength: 6 }),
    memberCount: fc.integer({ min: 1, max: 6 }),
    primary: fc.nat(5),
    fields: fc.record({
      volumeId: id,
      sizeBytes,
      lineage: id,
      epoch,
      attachment: fc.record({ number: count, node: fc.option(id) }),
      durability: fc.constantFrom('writeback' as const, 'writethrough' as const),
      failureMode: fc.oneof(
        fc.constantFrom('hard' as const, 'soft' as const, 'alwayson' as const),
        fc.nat(5),
      ),
    }),
    opening: fc.option(id),
    replica: fc.record({
      node: id,
      outSince: fc.option(epoch),
      needsFullCopy: fc.boolean(),
      bootId: fc.option(id),
      report: fc.option(fc.record({ incarnation: id, descendsFrom: fc.option(id) })),
    }),
    incarnation: fc.option(id),
  })
  .map(({ ids, memberCount, primary, fields, opening, replica, incarnation }) => {
    const inSync = ids.slice(0, memberCount).map((replicaId) => ({ replicaId, incarnation }));
    return {
      ...fields,
      primary: { replicaId: inSync[primary % inSync.length]?.replicaId ?? '', opening },
      inSync,
      replicas: ids.map((replicaId) => ({ id: replicaId, ...replica })),
    };
  });
const role = fc.constantFrom('member' as const, 'joining' as const);
const suspect = fc.record({
  offsetBytes: fc.nat(2 ** 45),
  lengthBytes: fc.integer({ min: 1, max: 2 ** 32 }),
});
const unsettled = fc.record({
  sequence: count,
  offsetBytes: fc.nat(2 ** 45),
  lengthBytes: fc.integer({ min: 1, max: 2 ** 32 }),
});
const extents = fc
  .uniqueArray(fc.oneof(fc.nat(200), fc.nat(MAX_EXTENTS - 1)), { maxLength: 200 })
  .map((numbers) => numbers.sort((a, b) => a - b));
const anyMessage: fc.Arbitrary<readonly [number, ControlMessage]> = fc.oneof(
  fc
    .record({
      kind: fc.constant('stream' as const),
      volumeId: id,
      config: anyConfig,
      revision: count,
      replicaId: id,
      stream: count,
      watermark: count,
      role,
    })
    .map((message) => [frames.FRAME_HELLO, message] as const),
  fc
    .record({
      kind: fc.constant('session' as const),
      volumeId: id,
      node: id,
      attachment: count,
      session: count,
      epoch,
    })
    .map((message) => [frames.FRAME_HELLO, message] as const),
  fc
    .record({
      kind: fc.constant('stream' as const),
      incarnation: id,
      opening: id,
      bootId: id,
      lastInSyncEpoch: epoch,
      suspects: fc.oneof(fc.constant('hot' as const), fc.array(suspect)),
      hotExtents: extents,
      isDeltaBase: fc.boolean(),
    })
    .map((message) => [frames.FRAME_WELCOME, message] as const),
  fc
    .record({ kind: fc.constant('session' as const), epoch, opening: fc.option(id), sizeBytes })
    .map((message) => [frames.FRAME_WELCOME, message] as const),
  fc
    .record({
      reason: fc.constantFrom(
        'epoch',
        'notPrimary',
        'number',
        'lineage',
        'revoked',
        'busy',
        'failed',
        'size',
        'stopping',
      ),
      epoch,
    })
    .map((message) => [frames.FRAME_REFUSED, message as frames.Refused] as const),
  fc
    .record({ config: anyConfig, revision: count, role, unsettled: fc.array(unsettled) })
    .map((message) => [frames.FRAME_EPOCH, message] as const),
  fc
    .record({ config: anyConfig, revision: count })
    .map((message) => [frames.FRAME_PROMOTE, message] as const),
  fc.record({ epoch }).map((message) => [frames.FRAME_MOVED, message] as const),
  fc
    .record({
      extent: fc.nat(MAX_EXTENTS - 1),
      stamps: fc.array(epoch, {
        minLength: GENERATION_BLOCKS_PER_EXTENT,
        maxLength: GENERATION_BLOCKS_PER_EXTENT,
      }),
    })
    .map((message) => [frames.FRAME_STAMPS, message] as const),
);

describe('a message that was sent', () => {
  test('is heard as it was', () => {
    fc.assert(
      fc.property(anyMessage, ([type, message]) => {
        expect(decodeControl(type, encode(type, message))).toEqual(message);
      }),
      { numRuns: 500 },
    );
  });

  test('can be one of every type that carries one', () => {
    const types = new Set([...MESSAGES.map(([, type]) => type), frames.FRAME_STAMPS]);
    const carrying = FRAME_TYPES.filter(({ payload }) => payload === PAYLOAD_CONTROL);
    expect(types).toEqual(new Set(carrying.map(({ type }) => type)));
  });

  test('by an older peer, whose Welcome of a session says no opening, is heard', () => {
    const { opening: _, ...older } = sessionWelcome;
    const bytes = asBytes({ ...older, wireVersion: 1 });
    expect(decodeControl(frames.FRAME_WELCOME, bytes)).toEqual({ ...older, opening: null });
  });

  test('by an older peer, which tells of no unsettled writes, is heard', () => {
    const old = asBytes({ config, revision: 12, role: 'joining' });
    expect(decodeControl(frames.FRAME_EPOCH, old)).toEqual({
      config,
      revision: 12,
      role: 'joining',
      unsettled: [],
    });
  });

  test('by a newer peer, with fields that nobody here knows, loses them and is heard', () => {
    for (const [, type, message] of MESSAGES) {
      const json = JSON.parse(asText(encode(type, message))) as Record<string, unknown>;
      const newer = { ...json, colour: { deep: [1] }, ['__proto__x']: 1 };
      expect(decodeControl(type, asBytes(newer))).toEqual(message);
      const text = asText(asBytes(newer)).replace('__proto__x', '__proto__');
      expect(decodeControl(type, new TextEncoder().encode(text))).toEqual(message);
    }
  });
});

// ---- hot extents

describe('the hot extents of a Welcome', () => {
  function heard(hotExtents: readonly number[]): { bytes: number; extents: readonly number[] } {
    const bytes = encode(frames.FRAME_WELCOME, { ...streamWelcome, hotExtents });
    const message = decodeControl(frames.FRAME_WELCOME, bytes) as StreamWelcome;
    return { bytes: bytes.length, extents: message.hotExtents };
  }

  test('come in ascending order and once, however they were given', () => {
    expect(heard([9, 3, 1, 2, 9, 0]).extents).toEqual([0, 1, 2, 3, 9]);
  });

  test('of a large volume that is hot throughout need one run', () => {
    const { bytes, extents: all } = heard(Array.from({ length: 500_000 }, (_, index) => index));
    expect(bytes).toBeLessThan(500);
    expect(all.length).toBe(500_000);
  });

  test('that are too scattered for one message all come, and cold ones with them, none beyond the last', () => {
    const scattered = Array.from(
      { length: 2 * MAX_HOT_RUNS + 7 },
      (_, index) => 5 * index + (index % 3) + 11,
    );
    const { bytes, extents: some } = heard(scattered);
    expect(bytes).toBeLessThanOrEqual(MAX_CONTROL_BYTES);
    const all = new Set(some);
    expect(scattered.filter((extent) => !all.has(extent))).toEqual([]);
    expect([some[0], some.at(-1)]).toEqual([scattered[0], scattered.at(-1)]);
    expect(some.length).toBeLessThan(5 * scattered.length);
  });

  test('as many as fit are exact, and fit with the longest numbers', () => {
    const scattered = Array.from(
      { length: MAX_HOT_RUNS },
      (_, index) => MAX_EXTENTS - 1 - 2 * index,
    ).reverse();
    const { bytes, extents: all } = heard(scattered);
    expect(all).toEqual(scattered);
    expect(bytes).toBeLessThan(MAX_CONTROL_BYTES / 2);
  });

  test.each([
    ['an odd count', [1]],
    ['an empty run', [1, 0]],
    ['overlapping runs', [1, 5, 3, 2]],
    ['falling runs', [9, 1, 1, 1]],
    ['extents that no volume has', [MAX_EXTENTS - 1, 2]],
    ['a run that would fill the memory', [0, Number.MAX_SAFE_INTEGER]],
  ])('are refused as %s', (_, runs) => {
    const welcome = asBytes({ ...streamWelcome, hotExtents: runs });
    expect(refusalOf(() => decodeControl(frames.FRAME_WELCOME, welcome))).toMatch(/message\.hotExtents/);
  });
});

// ---- refusals

/** Every place in a JSON value, as a path of keys. */
function placesOf(value: unknown): (string | number)[][] {
  if (typeof value !== 'object' || value === null) return [];
  const entries: [string | number, unknown][] = Array.isArray(value)
    ? [...value.entries()]
    : Object.entries(value);
  return entries.flatMap(([key, child]) => [[key], ...placesOf(child).map((path) => [key, ...path])]);
}

function replaced(value: unknown, path: readonly (string | number)[], by: unknown): unknown {
  const [key, ...rest] = path;
  if (key === undefined) return by;
  if (Array.isArray(value))
    return value.map((child: unknown, index) => (index === key ? replaced(child, rest, by) : child));
  const fields = Object.entries(value as object).map(([name, child]) => [
    name,
    name === key ? replaced(child, rest, by) : (child as unknown),
  ]);
  return Object.fromEntries(fields);
}

describe('a message that cannot be believed', () => {
  test.each(MESSAGES)('is refused, as %s, for any field that is missing', (_, type, message) => {
    const { wireVersion: __, ...json } = JSON.parse(asText(encode(type, message))) as Record<string, unknown>;
    for (const path of placesOf(json)) {
      const name = path.at(-1);
      // Older peers leave it out.
      const isNew = name === 'unsettled' || (message === sessionWelcome && name === 'opening');
      if (typeof name === 'number' || isNew) continue;
      const refusal = refusalOf(() => decodeControl(type, asBytes(replaced(json, path, undefined))));
      expect(refusal, path.join('.')).toMatch(new RegExp(`\\.${name} is missing; run the same version`));
    }
  });

  test.each(MESSAGES)('is refused, as %s, for any field of a wrong type', (_, type, message) => {
    const { wireVersion: __, ...json } = JSON.parse(asText(encode(type, message))) as Record<string, unknown>;
    for (const path of placesOf(json)) {
      for (const wrong of [{}, [{}], true, -1, 0.5, '', 1e300, 'x'.repeat(300), '\ud800']) {
        // The one field that may be true or false.
        if (wrong === true && /isDeltaBase|needsFullCopy/.test(String(path.at(-1)))) continue;
        const refusal = refusalOf(() => decodeControl(type, asBytes(replaced(json, path, wrong))));
        expect(refusal, `${path.join('.')} = ${JSON.stringify(wrong)}`).toMatch(
          /^a peer's message cannot be used/,
        );
      }
    }
  });

  test.each<[string, Partial<VolumeConfig>, RegExp]>([
    ['an empty in-sync set', { inSync: [] }, /config\.primary is not one of its in-sync set/],
    ['a primary that is not in sync', { primary: { replicaId: 'r3', opening: null } }, /config\.primary/],
    [
      'a member that is no replica',
      { inSync: [...config.inSync, { replicaId: 'r9', incarnation: null }] },
      /config\.inSync is not a list of its replicas/,
    ],
    ['a member twice', { inSync: [...config.inSync, ...config.inSync] }, /config\.inSync is not free of rep/],
    [
      'a replica twice',
      { replicas: [...config.replicas, ...config.replicas] },
      /config\.replicas is not free/,
    ],
    [
      'seven members',
      { inSync: Array.from({ length: 7 }, (_, index) => ({ replicaId: `r${index}`, incarnation: null })) },
      /config\.inSync is not a list of at most 6/,
    ],
    [
      'a name of more bytes than letters fit',
      { volumeId: 'é'.repeat(32) },
      /volumeId is not a text of 1 to 63/,
    ],
    ['six replicas beside the primary', { failureMode: 6 }, /config\.failureMode/],
    ['a mode that does not exist', { failureMode: 'lazy' as 'soft' }, /one of hard, soft, alwayson/],
  ])('is refused for a configuration with %s', (_, change, text) => {
    const message = { config: { ...config, ...change }, revision: 1 };
    expect(refusalOf(() => decodeControl(frames.FRAME_PROMOTE, asBytes(message)))).toMatch(text);
  });

  test('is refused for a suspect range beyond the largest volume', () => {
    const suspects = [{ offsetBytes: MAX_VOLUME_BYTES, lengthBytes: 1 }];
    const welcome = asBytes({ ...streamWelcome, hotExtents: [], suspects });
    expect(refusalOf(() => decodeControl(frames.FRAME_WELCOME, welcome))).toMatch(/suspects\[0\]/);
  });

  test('is refused for stamps of another length or of an extent that no volume has', () => {
    const stamps = Array.from({ length: GENERATION_BLOCKS_PER_EXTENT }, () => 1);
    const bytes = encode(frames.FRAME_STAMPS, { extent: MAX_EXTENTS, stamps });
    for (const wrong of [bytes, bytes.subarray(1), new Uint8Array(0), new Uint8Array(261)]) {
      expect(refusalOf(() => decodeControl(frames.FRAME_STAMPS, wrong))).toMatch(/stamps/);
    }
  });

  const controlType = fc.constantFrom(...new Set([...MESSAGES.map(([, type]) => type), frames.FRAME_STAMPS]));

  test('is refused and never throws anything else, for any bytes and any JSON', () => {
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 400 }),
      fc.json().map((text) => new TextEncoder().encode(text)),
    );
    fc.assert(
      fc.property(controlType, bytes, (type, received) => {
        refusalOf(() => decodeControl(type, received));
        refusalOf(() => helloVersions(received));
        refusalOf(() => welcomeVersion(received));
      }),
      { numRuns: 2000 },
    );
  });

  test('is refused when a text in it is not UTF-8', () => {
    const hello = encode(frames.FRAME_HELLO, { ...sessionHello, node: 'QQ' });
    const damaged = hello.map((byte) => (byte === 0x51 ? 0xff : byte));
    expect(refusalOf(() => decodeControl(frames.FRAME_HELLO, damaged))).toMatch(/not JSON in UTF-8/);
  });

  test('is refused when it is cut off anywhere', () => {
    for (const [, type, message] of MESSAGES) {
      const bytes = encode(type, message);
      for (let length = 0; length < bytes.length; length++) {
        expect(refusalOf(() => decodeControl(type, bytes.subarray(0, length)))).toMatch(/not JSON/);
      }
    }
  });

  test('is refused, and not recursed into, when it is nested without end', () => {
    const deep = new TextEncoder().encode('['.repeat(MAX_CONTROL_BYTES));
    expect(refusalOf(() => decodeControl(frames.FRAME_HELLO, deep))).toBeDefined();
    const closed = new TextEncoder().encode('['.repeat(500_000) + ']'.repeat(500_000));
    expect(refusalOf(() => decodeControl(frames.FRAME_HELLO, closed))).toBeDefined();
  });
});

// ---- versions

describe('the versions of the wire', () => {
  test('are said by a Hello, and understood however strange the rest of it is', () => {
    const hello = encodeControl(frames.FRAME_HELLO, sessionHello, 0, { min: 2, max: 5 });
    expect(helloVersions(hello)).toEqual({ min: 2, max: 5 });
    expect(helloVersions(asBytes({ wireVersion: { min: 7, max: 9 }, volume: 'of another kind' }))).toEqual({
      min: 7,
      max: 9,
    });
  });

  test('are answered by a Welcome, which chooses one that was offered', () => {
    const welcome = encodeControl(frames.FRAME_WELCOME, sessionWelcome, 3);
    expect(welcomeVersion(welcome, { min: 2, max: 5 })).toBe(3);
    expect(refusalOf(() => welcomeVersion(welcome, { min: 4, max: 5 }))).toMatch(/the offered 4 to 5/);
    expect(refusalOf(() => welcomeVersion(welcome, { min: 1, max: 2 }))).toMatch(/the offered 1 to 2/);
  });

  test.each([
    {},
    { wireVersion: 1 },
    { wireVersion: { min: 0, max: 1 } },
    { wireVersion: { min: 1 } },
    [],
    null,
  ])('are refused when they are missing or wrong: %j', (json) => {
    expect(refusalOf(() => helloVersions(asBytes(json)))).toMatch(/cannot be used/);
  });
});
