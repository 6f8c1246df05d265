// Every function of the addon against values of every wrong kind: a TypeError or RangeError, never a crash,
// and nothing done.

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Native, type NativeRing, native } from '../../src/dataplane/native.ts';

const NOTHING_RIGHT: unknown[] = [
  undefined,
  null,
  true,
  'text',
  Symbol('symbol'),
  10n,
  {},
  [],
  () => 0,
  new Uint8Array(8),
  new ArrayBuffer(8),
  new Proxy({}, { get: () => 1 }),
  Object.freeze({ fd: 3, memory: new ArrayBuffer(64), submissionEntries: new ArrayBuffer(64) }),
];
const NO_INTEGERS = [Number.NaN, Number.POSITIVE_INFINITY, -2, 0.5, 2 ** 53, -(2 ** 63)];
const CONNECT = {
  index: 0,
  sizeBytes: 4096,
  blockSizeBytes: 4096,
  serverFlags: 1,
  timeoutSeconds: 0,
  deadConnectionTimeoutSeconds: 10,
  backendIdentifier: 'v/1',
  socketFds: [0],
};

/** For each function, arguments that would be right, from which one at a time is made wrong. */
type Calls = { [Name in keyof Native]: unknown[] };
let ring: NativeRing;
let calls: Calls;

beforeAll(() => {
  ring = native.createRing(2, 4);
  calls = {
    probeRing: [],
    createRing: [2, 4],
    enter: [ring, 0, 0, 0, 0],
    registerFiles: [ring, 2],
    updateFile: [ring, 0, -1],
    closeRing: [ring],
    readBatch: [new Uint8Array(8), new Float64Array(4), 0],
    sendBatch: [new Uint8Array(8), new Float64Array(2), 0],
    sendMapped: [new Uint8Array(8), new Float64Array(6), 0],
    mapWindow: [0, 1 << 20, 0, 4096],
    unmapWindow: [0],
    writeBatch: [new Uint8Array(8), new Float64Array(4), 0],
    readClock: [new Float64Array(1)],
    createMemory: [4096],
    mapFile: [0, 4096],
    freeMemory: [{}],
    crc32c: [new Uint8Array(8), 0, 8, 0],
    crc32cSigned: [new Uint8Array(8), 0, 8, 0],
    seal: [new Uint8Array(16), new Uint8Array(16), 0, 8, 1],
    isSealed: [new Uint8Array(16), new Uint8Array(16), 0, 8],
    close: [1 << 20],
    listenUnix: ['/nonexistent/path', 0o600, 1],
    listenTcp: ['127.0.0.1', 0, 1],
    openTcp: ['127.0.0.1', 1],
    setPeerOptions: [1 << 20, 1, 1, 1, 1000],
    peerAddress: [1 << 20],
    socketPair: [0],
    duplicateSocket: [1 << 20],
    setSocketBuffers: [1 << 20, 4096],
    setNoDelay: [1 << 20],
    shutdownSocket: [1 << 20],
    isSocketConnected: [1 << 20],
    eventFd: [],
    signalEventFd: [1 << 20],
    tryLock: [1 << 20],
    nextRun: [1 << 20, 0, 1],
    hasData: [1 << 20],
    fileSystemSpace: [1 << 20],
    setIoFlusher: [false],
    lockMemory: [],
    isAllocated: [0, 0, 1],
    exitAtOnce: [0],
    bootTimeMs: [],
    nbdConnect: [CONNECT],
    nbdReconfigure: [CONNECT],
    nbdDisconnect: [0],
    nbdStatus: [-1],
  };
});

afterAll(() => {
  native.closeRing(ring);
});

function expectRefusal(name: keyof Native, args: unknown[]): void {
  const call = native[name] as (...args: unknown[]) => unknown;
  expect(() => call(...args), `${name}(${args.map(describeValue).join(', ')})`).toThrow(
    expect.toSatisfy((error) => error instanceof TypeError || error instanceof RangeError),
  );
}

function describeValue(value: unknown): string {
  return typeof value === 'object' && value !== null ? Object.prototype.toString.call(value) : String(value);
}

const NAMES = Object.keys(native).filter((name) => name !== 'crc32cPortable') as (keyof Native)[];

test('the addon exports exactly the interface', () => {
  expect(NAMES.toSorted()).toEqual(Object.keys(calls).toSorted());
});

describe.each(NAMES)('%s', (name) => {
  test('refuses every argument of a wrong kind', () => {
    const right = calls[name];
    for (const [position, value] of right.entries()) {
      const isNumber = typeof value === 'number';
      for (const wrong of NOTHING_RIGHT) {
        if (typeof wrong === typeof value && typeof wrong !== 'object') continue;
        const isHot = name.startsWith('crc32c') || name === 'sendMapped' || name.endsWith('Batch');
        if (isHot && wrong instanceof Uint8Array) continue;
        expectRefusal(name, right.with(position, wrong));
      }
      // The hot calls cut fractions off and take what is not finite as zero; they check only the range.
      const wrongNumbers = name === 'enter' || name.startsWith('crc32c') ? [-2, 2 ** 53] : NO_INTEGERS;
      if (isNumber) for (const wrong of wrongNumbers) expectRefusal(name, right.with(position, wrong));
      expectRefusal(name, right.slice(0, position));
    }
  });
});

describe.each(['nbdConnect', 'nbdReconfigure'] as const)('%s', (name) => {
  test('refuses options with any field missing or of a wrong kind', () => {
    const fields =
      name === 'nbdConnect' ? Object.keys(CONNECT) : ['index', 'sizeBytes', 'backendIdentifier', 'socketFds'];
    for (const field of fields) {
      for (const wrong of [undefined, null, true, {}, -5, Number.NaN, ['x'], new Array(65).fill(0)]) {
        expectRefusal(name, [{ ...CONNECT, [field]: wrong }]);
      }
    }
  });

  test('lets the exception of a getter through', () => {
    const options = {
      get index(): number {
        throw new Error('from the getter');
      },
    };
    expect(() => (native[name] as (options: unknown) => unknown)(options)).toThrow('from the getter');
  });
});

test('a ring is frozen, and neither its copy nor a forgery is one', () => {
  expect(Object.isFrozen(ring)).toBe(true);
  for (const forgery of [
    { ...ring },
    Object.create(ring) as NativeRing,
    structuredClone({ ...ring, memory: 0, submissionEntries: 0 }),
  ]) {
    expectRefusal('enter', [forgery, 0, 0, 0, 0]);
  }
  const memory = native.createMemory(4096);
  expectRefusal('enter', [memory, 0, 0, 0, 0]);
  expectRefusal('freeMemory', [ring]);
  native.freeMemory(memory);
});

test('the functions can be taken off the addon and called as any other', () => {
  const { bootTimeMs, crc32c } = native;
  expect(bootTimeMs()).toBeGreaterThan(0);
  expect(crc32c.call(undefined, new Uint8Array(1), 0, 0, 0)).toBe(0);
  expect(() => Reflect.construct(native.createMemory as unknown as new () => unknown, ['x'])).toThrow(
    TypeError,
  );
});
