// Two daemons' worth of storage, each in its own directory, and the channel between them over loopback.

import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { connect as connectHttp2, createSecureServer } from 'node:http2';
import { type AddressInfo, connect as connectTcp } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect as connectTls } from 'node:tls';
import { execa } from 'execa';
import { pino } from 'pino';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { ControlClient } from '../../src/control/channel/client.ts';
import { ClusterListener } from '../../src/control/channel/listener.ts';
import type { ControlHandlers } from '../../src/control/channel/protocol.ts';
import { clientTls } from '../../src/control/channel/psk.ts';
import { RefusalLog } from '../../src/control/channel/refusal-log.ts';
import { replicaCalls } from '../../src/control/channel/replica-calls.ts';
import { ControlServer } from '../../src/control/channel/server.ts';
import { ClusterKey } from '../../src/control/cluster-key.ts';
import { LevelStore } from '../../src/control/level-store.ts';
import { drawId } from '../../src/control/names.ts';
import { newReplica, type VolumeRecord } from '../../src/control/records.ts';
import { VolumeRecords } from '../../src/control/volume-records.ts';
import { GIB, MIB } from '../../src/core/units.ts';
import { createNodeStorage } from '../../src/dataplane/create-storage.ts';
import { native } from '../../src/dataplane/native.ts';
import type { ReplicaSpec } from '../../src/dataplane/node-storage.ts';
import type { Storage } from '../../src/dataplane/storage.ts';

const KEY = new ClusterKey(Buffer.from('the key of the first cluster: 1!'));
const OTHER_KEY = new ClusterKey(Buffer.from('the key of the other cluster: 2!'));
const CLUSTER = 'a'.repeat(32);

let directory: string;
let store: LevelStore;
let records: VolumeRecords;
let logLines: { msg: string; level: number; [key: string]: unknown }[];
let cleanups: (() => unknown)[];

const log = pino({ level: 'info' }, { write: (line: string) => void logLines.push(JSON.parse(line)) });
const warnings = () => logLines.filter(({ level }) => level >= 40);

beforeEach(async () => {
  logLines = [];
  cleanups = [];
  directory = await mkdtemp(join(tmpdir(), 'holdfast-channel-'));
  cleanups.push(() => rm(directory, { recursive: true }));
  store = await LevelStore.open(join(directory, 'store'), { sync: false });
  cleanups.push(() => store.close());
  records = new VolumeRecords(store);
});
afterEach(async () => {
  for (const clean of cleanups.reverse()) await clean();
});

async function storageOf(node: string): Promise<Storage> {
  const storage = await createNodeStorage({
    nodeName: node,
    runDirectory: join(directory, node, 'run'),
    pools: [
      { name: 'pool', directory: join(directory, node, 'pool'), reserveBytes: 0, overcommitRatio: 1000 },
    ],
    threadCount: 1,
    busyPollMicros: 0,
    testFaults: new Set(),
    onEvent: () => undefined,
    onDeath: (error) => {
      throw error;
    },
  });
  cleanups.push(() => storage.close());
  return storage;
}

interface TestNode {
  readonly name: string;
  readonly id: string;
  readonly storage: Storage;
  readonly handlers: ControlHandlers;
}

async function testNode(name: string): Promise<TestNode> {
  const storage = await storageOf(name);
  const self = { name, id: drawId(), process: drawId(), bootId: 'boot', softwareVersion: '1.2.3' };
  return { name, id: self.id, storage, handlers: replicaCalls({ self, storage, records }) };
}

interface Serving {
  readonly port: number;
  close(graceMs: number): Promise<void>;
}

async function serve(
  { name, handlers }: Pick<TestNode, 'name' | 'handlers'>,
  { port = 0, ...changes }: { key?: ClusterKey; cluster?: string; port?: number } = {},
): Promise<Serving> {
  const refusals = new RefusalLog(log);
  const server = new ControlServer({
    key: KEY,
    cluster: CLUSTER,
    node: name,
    handlers,
    log,
    refusals,
    ...changes,
  });
  const listener = await ClusterListener.listen({
    host: '127.0.0.1',
    port,
    onCall: (socket) => server.accept(socket),
    onLink: (fd) => native.close(fd),
    refusals,
  });
  const serving: Serving = {
    port: listener.port,
    async close(graceMs) {
      listener.close();
      await server.close(graceMs);
    },
  };
  cleanups.push(() => serving.close(0));
  return serving;
}

function client(
  port: number,
  to: string,
  changes: { key?: ClusterKey; cluster?: string; from?: string } = {},
): ControlClient {
  const made = new ControlClient({
    address: `127.0.0.1:${port}`,
    key: KEY,
    cluster: CLUSTER,
    from: 'caller',
    to,
    ...changes,
  });
  cleanups.push(() => made.close());
  return made;
}

/** A volume whose copy is to be on `node`. */
async function volumeOn(node: string, changes: Partial<VolumeRecord> = {}): Promise<ReplicaSpec> {
  const replicaId = drawId();
  const record: VolumeRecord = {
    version: 2,
    id: drawId(),
    name: 'data',
    state: 'creating',
    coordinator: null,
    sizeBytes: 8 * MIB,
    targetSizeBytes: 8 * MIB,
    lineage: drawId(),
    epoch: 1,
    primary: { replicaId, opening: null },
    inSync: [{ replicaId, incarnation: null }],
    replicas: [newReplica(replicaId, node, 'pool')],
    attachment: { number: 0, node: null, readOnly: false, use: 'device' },
    durability: 'writeback',
    failureMode: 'soft',
    fileSystem: null,
    labels: {},
    ...changes,
  };
  await records.insert(record);
  const { id: volumeId, name: volumeName, sizeBytes, lineage, epoch, durability } = record;
  return {
    volumeId,
    volumeName,
    replicaId,
    pool: 'pool',
    sizeBytes,
    lineage,
    epoch,
    durability,
    failureMode: 'soft',
  };
}

const refusal = (code: string, text: RegExp) =>
  expect.objectContaining({ code, message: expect.stringMatching(text) as unknown });

describe('a copy on another node', () => {
  test('is made, described, grown and deleted there, each as often as it is asked', async () => {
    const [a, b] = [await testNode('a'), await testNode('b')];
    const toB = client((await serve(b)).port, 'b', { from: 'a' });
    const toA = client((await serve(a)).port, 'a', { from: 'b' });
    expect(await toB.call('hello', {})).toMatchObject({
      node: 'b',
      nodeId: b.id,
      control: { min: 1, max: 1 },
    });
    expect(await toA.call('hello', {})).toMatchObject({ node: 'a', nodeId: a.id });
    expect(await toB.call('pools', {})).toMatchObject({ pools: [{ name: 'pool' }], closed: [] });

    const spec = await volumeOn('b');
    const { volumeId, replicaId, pool } = spec;
    for (let i = 0; i < 2; i += 1) await toB.call('createReplica', spec);
    expect(await toB.call('describeReplica', { volumeId })).toEqual({
      replica: {
        pool: 'pool',
        replicaId,
        lineage: spec.lineage,
        sizeBytes: 8 * MIB,
        promisedEpoch: expect.any(Number),
        allocatedBytes: expect.any(Number),
        isOpen: false,
        problem: null,
      },
    });
    expect(await toA.call('describeReplica', { volumeId })).toEqual({ replica: null });

    await records.update(volumeId, (record) => ({ ...record, state: 'ready', targetSizeBytes: 16 * MIB }));
    for (let i = 0; i < 2; i += 1)
      await toB.call('growReplica', { volumeId, replicaId, sizeBytes: 16 * MIB });
    expect((await b.storage.replica(volumeId))?.superblock?.sizeBytes).toBe(16 * MIB);

    await records.update(volumeId, (record) => ({ ...record, state: 'deleting' }));
    for (let i = 0; i < 2; i += 1) await toB.call('deleteReplica', { volumeId, replicaId, pool });
    expect(await b.storage.replicas()).toEqual([]);
    expect(warnings()).toEqual([]);
  });

  test('is not made by a call that comes late: the volume is being deleted, is gone, or wants it elsewhere', async () => {
    const b = await testNode('b');
    const toB = client((await serve(b)).port, 'b');
    const deleting = await volumeOn('b', { state: 'deleting' });
    const elsewhere = await volumeOn('c');
    const gone = { ...elsewhere, volumeId: drawId() };
    const renamed = { ...(await volumeOn('b')), replicaId: drawId() };
    const larger = { ...(await volumeOn('b')), sizeBytes: GIB };
    const reborn = { ...(await volumeOn('b')), lineage: drawId() };
    for (const spec of [deleting, elsewhere, gone, renamed, larger, reborn]) {
      await expect(toB.call('createReplica', spec)).rejects.toEqual(refusal('CONFLICT', /nothing was made/));
    }
    expect(await b.storage.replicas()).toEqual([]);
  });

  test('is not deleted unless the store says so, nor by a call for another copy', async () => {
    const b = await testNode('b');
    const toB = client((await serve(b)).port, 'b');
    const spec = await volumeOn('b');
    const { volumeId, replicaId, pool } = spec;
    await toB.call('createReplica', spec);
    await records.update(volumeId, (record) => ({ ...record, state: 'ready' }));
    const call = (changes = {}) => toB.call('deleteReplica', { volumeId, replicaId, pool, ...changes });
    await expect(call()).rejects.toEqual(refusal('CONFLICT', /was kept/));
    await records.update(volumeId, (record) => ({ ...record, state: 'deleting' }));
    await expect(call({ replicaId: drawId() })).rejects.toEqual(refusal('CONFLICT', /another copy/));
    await expect(call({ pool: 'other' })).rejects.toEqual(refusal('CONFLICT', /another copy/));
    await records.remove(volumeId);
    await expect(call()).rejects.toEqual(refusal('CONFLICT', /was kept/));
    expect(await b.storage.replicas()).toHaveLength(1);
  });

  test('is not grown beyond what the store promised, nor another one in its place', async () => {
    const b = await testNode('b');
    const toB = client((await serve(b)).port, 'b');
    const spec = await volumeOn('b');
    const { volumeId, replicaId } = spec;
    await toB.call('createReplica', spec);
    await records.update(volumeId, (record) => ({ ...record, state: 'ready' }));
    const grow = (changes = {}) =>
      toB.call('growReplica', { volumeId, replicaId, sizeBytes: 8 * MIB, ...changes });
    await expect(grow({ sizeBytes: 16 * MIB })).rejects.toEqual(refusal('CONFLICT', /left as it is/));
    await expect(grow({ replicaId: drawId() })).rejects.toEqual(refusal('CONFLICT', /left as it is/));
    expect((await b.storage.replica(volumeId))?.superblock?.sizeBytes).toBe(8 * MIB);
  });

  test('is worked on by one call at a time', async () => {
    const b = await testNode('b');
    const toB = client((await serve(b)).port, 'b');
    const spec = await volumeOn('b');
    const calls = Array.from({ length: 5 }, () => toB.call('createReplica', spec));
    const results = await Promise.allSettled(calls);
    const errors = results.flatMap((result) => (result.status === 'rejected' ? [result.reason] : []));
    expect(errors).toEqual(errors.map(() => refusal('BUSY', /Another operation/)));
    expect(errors.length).toBeLessThan(calls.length);
    expect(errors.length).toBeGreaterThan(0);
    await toB.call('createReplica', spec);
    expect(await b.storage.replicas()).toHaveLength(1);
  });
});

describe('the channel', () => {
  const nothing = (): Promise<never> => Promise.reject(new Error('not asked for'));
  const handlers: ControlHandlers = {
    hello: () =>
      Promise.resolve({
        node: 'b',
        nodeId: 'x',
        process: 'x',
        bootId: 'x',
        softwareVersion: 'x',
        control: { min: 1, max: 1 },
      }),
    pools: nothing,
    createReplica: nothing,
    deleteReplica: nothing,
    describeReplica: nothing,
    listReplicas: nothing,
    hasData: nothing,
    growReplica: nothing,
    replicaState: nothing,
    handOver: nothing,
    readmit: nothing,
    timeline: nothing,
  };
  const b = { name: 'b', handlers };

  test('refuses another key, says so to both, and logs it once a minute', async () => {
    const { port } = await serve(b);
    for (let i = 0; i < 5; i += 1) {
      await expect(client(port, 'b', { key: OTHER_KEY }).call('hello', {})).rejects.toEqual(
        refusal('CONFLICT', /same cluster key/),
      );
    }
    expect(warnings()).toEqual([
      expect.objectContaining({ address: '127.0.0.1', msg: expect.stringMatching(/cluster key/) }),
    ]);
    expect(JSON.stringify(logLines)).not.toMatch(/the key of/);
    expect(await client(port, 'b').call('hello', {})).toMatchObject({ node: 'b' });
  });

  test('tells nothing to those who have no key, and goes on', async () => {
    const { port } = await serve(b);
    const tls = connectTls({ port, host: '127.0.0.1', rejectUnauthorized: false });
    const [error] = (await once(tls, 'error')) as [NodeJS.ErrnoException];
    expect(error.code).toMatch(/^ERR_SSL/);
    const tcp = connectTcp(port, '127.0.0.1');
    let answer = Buffer.alloc(0);
    tcp.on('data', (data: Buffer) => {
      answer = Buffer.concat([answer, data]);
    });
    tcp.on('error', () => undefined);
    tcp.write('GET /hello HTTP/1.1\r\nHost: b\r\n\r\n');
    await once(tcp, 'close');
    // A TLS alert at most.
    expect(answer.length).toBeLessThan(16);
    expect(await client(port, 'b').call('hello', {})).toMatchObject({ node: 'b' });
  });

  test('trusts no certificate in the place of the key', async () => {
    const [key, cert] = [join(directory, 'key.pem'), join(directory, 'cert.pem')];
    const subject = ['-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1'];
    await execa('openssl', [
      'req',
      '-x509',
      '-newkey',
      'rsa:2048',
      '-nodes',
      '-keyout',
      key,
      '-out',
      cert,
      ...subject,
    ]);
    const impostor = createSecureServer({ key: await readFile(key), cert: await readFile(cert) });
    let calls = 0;
    impostor.on('stream', (stream) => {
      calls += 1;
      stream.respond({ ':status': 200 });
      stream.end('{}');
    });
    impostor.on('sessionError', () => undefined);
    impostor.listen(0, '127.0.0.1');
    await once(impostor, 'listening');
    cleanups.push(() => impostor.close());
    const { port } = impostor.address() as AddressInfo;
    await expect(client(port, 'b').call('hello', {})).rejects.toEqual(
      refusal('CONFLICT', /same cluster key/),
    );
    // Nor when the machine trusts who signed it.
    const trusting = connectHttp2(`https://127.0.0.1:${port}`, {
      ...clientTls(KEY),
      ca: [await readFile(cert)],
    });
    await expect(once(trusting, 'connect')).rejects.toThrow(/certificate instead of the cluster key/);
    expect(calls).toBe(0);
  });

  test('refuses another cluster with the same key, logs it once a minute, and another node than was called', async () => {
    const { port } = await serve(b);
    for (let i = 0; i < 3; i += 1) {
      await expect(client(port, 'b', { cluster: 'f'.repeat(32) }).call('hello', {})).rejects.toEqual(
        refusal('CONFLICT', /another cluster/),
      );
    }
    expect(warnings()).toEqual([
      expect.objectContaining({ from: 'caller', msg: expect.stringMatching(/another cluster/) }),
    ]);
    await expect(client(port, 'c').call('hello', {})).rejects.toEqual(
      refusal('CONFLICT', /node "b" answers where "c" was called/),
    );
  });

  test('ends a call at its deadline, and the next one is answered', async () => {
    const { promise, resolve } = Promise.withResolvers<never>();
    const { port } = await serve({ name: 'b', handlers: { ...handlers, pools: () => promise } });
    const toB = client(port, 'b');
    const began = performance.now();
    await expect(toB.call('pools', {}, 300)).rejects.toEqual(refusal('TIMEOUT', /within 300 ms/));
    expect(performance.now() - began).toBeLessThan(3000);
    expect(await toB.call('hello', {})).toMatchObject({ node: 'b' });
    resolve(undefined as never);
  });

  test('reaches nobody where nobody listens, and a daemon again after its restart', async () => {
    const first = await serve(b);
    const { port } = first;
    const toB = client(port, 'b');
    await toB.call('hello', {});
    await first.close(0);
    await expect(toB.call('hello', {})).rejects.toEqual(refusal('UNAVAILABLE', /cannot be reached/));
    await serve(b, { port });
    expect(await toB.call('hello', {})).toMatchObject({ node: 'b' });
  });

  test('lets what runs end when it is closed, and cuts off what does not', async () => {
    const { promise, resolve } = Promise.withResolvers<{ pools: []; closed: [] }>();
    const hangs = new Promise<never>(() => undefined);
    const server = await serve({
      name: 'b',
      handlers: { ...handlers, pools: () => promise, describeReplica: () => hangs },
    });
    const ends = client(server.port, 'b').call('pools', {});
    const cut = expect(
      client(server.port, 'b').call('describeReplica', { volumeId: drawId() }),
    ).rejects.toEqual(refusal('UNAVAILABLE', /cannot be reached/));
    await client(server.port, 'b').call('hello', {});
    const closed = server.close(1000);
    resolve({ pools: [], closed: [] });
    expect(await ends).toEqual({ pools: [], closed: [] });
    await closed;
    await cut;
  });

  test('passes on what the handler threw, with its code', async () => {
    const { port } = await serve(b);
    await expect(client(port, 'b').call('pools', {})).rejects.toEqual(refusal('INTERNAL', /not asked for/));
  });

  test.each<[string, string, string, string, RegExp]>([
    ['a message that is not JSON', '/hello', '{', '1', /not JSON/],
    ['a message with wrong fields', '/describeReplica', '{"volumeId":"../x"}', '1', /volumeId/],
    ['a message that is too long', '/hello', 'x'.repeat(300_000), '1', /at most/],
    ['an unknown method', '/toString', '{}', '1', /does not know "toString"/],
    ['a version of the future', '/hello', '{}', '9', /speaks versions 1 to 1/],
  ])('refuses %s', async (_, path, body, version, text) => {
    const { port } = await serve(b);
    const session = connectHttp2(`https://127.0.0.1:${port}`, clientTls(KEY));
    session.on('error', () => undefined);
    cleanups.push(() => session.destroy());
    const stream = session.request({
      ':method': 'POST',
      ':path': path,
      'holdfast-version': version,
      'holdfast-cluster': CLUSTER,
      'holdfast-to': 'b',
    });
    stream.end(body);
    let answer = '';
    for await (const part of stream.setEncoding('utf8')) answer += String(part);
    expect((JSON.parse(answer) as { message: string }).message).toMatch(text);
    expect(await client(port, 'b').call('hello', {})).toMatchObject({ node: 'b' });
  });
});
