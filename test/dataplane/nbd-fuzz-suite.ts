// Mutated sessions against a live server, from a seed: whatever arrives, the server lives, another client is
// answered meanwhile, and nothing stays behind. HOLDFAST_FUZZ_SEED repeats a run.

import { createHash } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  CMD,
  infoData,
  metaContextData,
  NbdClient,
  NbdSocket,
  OPT,
  optionBytes,
  requestBytes,
} from '../support/nbd-client.ts';
import type { HoldfastServer } from '../support/nbd-programs.ts';
import { descriptorsAtRest, eventually, expectDescriptors, residentBytes } from './nbd-hostile-suite.ts';
import { pattern } from './nbd-protocol-suite.ts';

const MIB = 1024 * 1024;
const MEBIBYTES_OF_OTHERS = 8;

const someOption = fc.oneof(
  fc.constantFrom(OPT.list, OPT.structuredReply, OPT.startTls).map((option) => optionBytes(option)),
  fc.constantFrom('data', '', 'other').map((name) => optionBytes(OPT.info, infoData(name, [0, 1, 2, 3]))),
  fc
    .constantFrom('data', 'other')
    .map((name) => optionBytes(OPT.listMetaContext, metaContextData(name, ['base:']))),
  fc.constant(optionBytes(OPT.setMetaContext, metaContextData('data', ['base:allocation']))),
  fc.tuple(fc.nat(), fc.uint8Array({ maxLength: 64 })).map(([option, bytes]) => optionBytes(option, bytes)),
);
const someRequest = fc
  .record({
    type: fc.oneof({ weight: 9, arbitrary: fc.constantFrom(0, 0, 1, 1, 3, 4, 5, 6, 7) }, fc.nat(0xffff)),
    flags: fc.oneof({ weight: 5, arbitrary: fc.constantFrom(0, 0, 1, 2, 4, 8, 16, 17) }, fc.nat(0xffff)),
    offset: fc.oneof(
      { weight: 9, arbitrary: fc.nat(MEBIBYTES_OF_OTHERS * MIB) },
      fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    ),
    length: fc.oneof(
      { weight: 9, arbitrary: fc.nat(100_000) },
      { weight: 1, arbitrary: fc.nat(MIB) },
      { weight: 1, arbitrary: fc.nat(0xffffffff) },
    ),
    cookie: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  })
  .map(({ type, flags, offset, length, cookie }) => {
    const payload = type === CMD.write && length <= MIB ? Buffer.alloc(length, 0x77) : undefined;
    const request = { type, flags, offset, length };
    return requestBytes(payload === undefined ? request : { ...request, payload }, cookie);
  });
const session = fc
  .tuple(fc.array(someOption, { maxLength: 4 }), fc.array(someRequest, { maxLength: 30 }), fc.boolean())
  .map(([options, requests, disconnects]) =>
    Buffer.concat([
      Buffer.from([0, 0, 0, 3]),
      ...options,
      optionBytes(OPT.go, infoData('data')),
      ...requests,
      ...(disconnects ? [requestBytes({ type: CMD.disconnect }, 0n)] : []),
    ]),
  );
const mutation = fc.oneof(
  fc.record({ kind: fc.constant('set' as const), at: fc.nat(), value: fc.nat(255) }),
  fc.record({ kind: fc.constant('cut' as const), at: fc.nat(), value: fc.nat(64) }),
  fc.record({ kind: fc.constant('double' as const), at: fc.nat(), value: fc.nat(64) }),
  fc.record({ kind: fc.constant('end' as const), at: fc.nat(), value: fc.nat(1) }),
);
type Mutation = typeof mutation extends fc.Arbitrary<infer M> ? M : never;

interface Attack {
  readonly bytes: Buffer;
  readonly pieceBytes: number;
  readonly reads: boolean;
  readonly endsHalf: boolean;
}

const attack: fc.Arbitrary<Attack> = fc
  .record({
    bytes: session,
    mutations: fc.array(mutation, { maxLength: 3 }),
    pieceBytes: fc.oneof(fc.constant(1 << 20), fc.integer({ min: 1, max: 5000 })),
    reads: fc.boolean(),
    endsHalf: fc.boolean(),
  })
  .map(({ bytes, mutations, ...rest }) => ({ ...rest, bytes: mutations.reduce(mutate, bytes) }));

function mutate(bytes: Buffer, { kind, at, value }: Mutation): Buffer {
  if (bytes.length === 0) return bytes;
  const position = at % bytes.length;
  switch (kind) {
    case 'set': {
      const changed = Buffer.from(bytes);
      changed[position] = value;
      return changed;
    }
    case 'cut':
      return Buffer.concat([bytes.subarray(0, position), bytes.subarray(position + value)]);
    case 'double':
      return Buffer.concat([bytes.subarray(0, position + value), bytes.subarray(position)]);
    case 'end':
      return bytes.subarray(0, position);
  }
}

async function run(socketPath: string, { bytes, pieceBytes, reads, endsHalf }: Attack): Promise<void> {
  const socket = await NbdSocket.connect(socketPath);
  // Many small pieces at the start, where the states change; then the rest at once.
  let at = 0;
  for (let piece = 0; piece < 20 && at < bytes.length; piece += 1) {
    await socket.write(bytes.subarray(at, at + pieceBytes));
    at += pieceBytes;
  }
  socket.push(bytes.subarray(at));
  if (endsHalf) socket.endWriting();
  // Whether the server ends it or waits for more is its business; it is not waited for.
  if (reads) await socket.readToEnd(endsHalf ? 5000 : 10).catch(() => undefined);
  socket.destroy();
}

/** Runs for `budgetMs` from one seed. */
export function nbdFuzzSuite(name: string, start: () => Promise<HoldfastServer>, budgetMs: number): void {
  const seed = Number(
    process.env['HOLDFAST_FUZZ_SEED'] ?? createHash('sha256').update(name).digest().readInt32BE(0),
  );

  test(
    `mutated sessions leave ${name} alive, other clients served and nothing behind (seed ${seed})`,
    async () => {
      const server = await start();
      try {
        const peaceful = await NbdClient.connect(server.socketPath, server.exportName);
        await peaceful.flush();
        const before = await server.counters();
        const descriptors = await descriptorsAtRest(server.pid);
        let rounds = 0;
        let longestMs = 0;
        const attackOnce = async (one: Attack): Promise<void> => {
          await run(server.socketPath, one);
          rounds += 1;
          if (rounds % 10 !== 0) return;
          const startedAt = performance.now();
          // Not what it reads: a mutated offset may write anywhere, and rightly.
          await peaceful.write(64 * MIB, pattern(4096, rounds));
          await peaceful.read(64 * MIB, 4096);
          longestMs = Math.max(longestMs, performance.now() - startedAt);
        };
        await fc.assert(fc.asyncProperty(attack, attackOnce), {
          seed,
          numRuns: 1_000_000,
          interruptAfterTimeLimit: budgetMs,
          endOnFailure: true,
        });
        expect(rounds).toBeGreaterThan(100);
        expect(longestMs).toBeLessThan(5000);
        const isAtRest = await eventually(async () => {
          const { volume, thread } = await server.counters();
          return volume.inFlight === 0 && thread.sessions === 1;
        }, 40_000);
        expect(isAtRest).toBe(true);
        const { volume, thread } = await server.counters();
        expect(thread.freeRequests).toBe(before.thread.freeRequests);
        // Enough of them got through the negotiation and to the volume.
        expect(volume.reads + volume.writes + volume.trims).toBeGreaterThan(rounds / 5);
        await expectDescriptors(server.pid, descriptors);
        // All of its fixed memory may have been touched by now, and no more.
        expect(residentBytes(server.pid)).toBeLessThan(800 * MIB);
        await peaceful.disconnect();
      } finally {
        await server.stop();
      }
    },
    budgetMs + 90_000,
  );
}
