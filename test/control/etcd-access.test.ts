// Users, passwords and TLS: real ones, and errors that name the next step.

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { EtcdStore } from '../../src/control/etcd/etcd-store.ts';
import { EtcdServer } from './etcd-server.ts';

const KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];

describe('users', () => {
  let server: EtcdServer;
  const root = ['--user', 'root:secret'];
  const user = { name: 'holdfast', password: 'correct' };

  beforeAll(async () => {
    server = await EtcdServer.start();
    await server.etcdctl('user', 'add', 'root:secret');
    await server.etcdctl('user', 'grant-role', 'root', 'root');
    await server.etcdctl('role', 'add', 'holdfast');
    await server.etcdctl('role', 'grant-permission', 'holdfast', 'readwrite', '/users/', '--prefix=true');
    await server.etcdctl('user', 'add', 'holdfast:correct');
    await server.etcdctl('user', 'grant-role', 'holdfast', 'holdfast');
    await server.etcdctl('auth', 'enable');
  });

  afterAll(async () => {
    await server.dispose();
  });

  const open = async (options: { user?: typeof user; prefix?: string } = { user }): Promise<EtcdStore> =>
    await EtcdStore.open({ endpoints: [server.address], prefix: '/users/a', ...options });

  test('a user who may read and write below the prefix needs nothing else', async () => {
    const store = await open();
    const result = await store.compareAndSwap('a', 0, '1');
    expect(result).toMatchObject({ swapped: true });
    const lease = await store.lease(1000);
    await store.compareAndSwap('l', 0, '1', lease);
    await lease.renew();
    await lease.revoke();
    const events = store.watch('', (await store.get('a'))?.revision ?? 0, new AbortController().signal);
    expect(await events[Symbol.asyncIterator]().next()).toMatchObject({ value: { entry: { key: 'l' } } });
    await events.return(undefined);
    await store.close();
  });

  test('a wrong password, no password, and a prefix that is not ours each say what to do', async () => {
    await expect(open({ user: { ...user, password: 'wrong' } })).rejects.toMatchObject({
      code: 'INVALID',
      message: expect.stringContaining('--store-password-file'),
    });
    await expect(open({})).rejects.toMatchObject({
      code: 'INVALID',
      message: expect.stringContaining('--store-user'),
    });
    await expect(open({ user, prefix: '/elsewhere' })).rejects.toMatchObject({
      code: 'INVALID',
      message: expect.stringContaining('grant-permission'),
    });
  });

  test('a server that forgot our token, or whose users changed, is asked for a new one', async () => {
    const store = await open();
    const abort = new AbortController();
    const events = store.watch('token', await store.revision(), abort.signal)[Symbol.asyncIterator]();
    const next = events.next();
    await server.restart();
    await store.compareAndSwap('token', 0, '1');
    await server.etcdctl(...root, 'user', 'add', 'another:x');
    expect((await store.get('token'))?.value).toBe('1');
    expect(await next).toMatchObject({ value: { entry: { key: 'token', value: '1' } } });
    await events.return?.(undefined);
    await store.close();
  });

  test('authentication that is switched off and on again under the store changes nothing for it', async () => {
    const store = await open();
    await server.etcdctl(...root, 'auth', 'disable');
    await store.get('a');
    const unasked = await open();
    await server.etcdctl('auth', 'enable');
    await unasked.get('a');
    await store.get('a');
    await unasked.close();
    await store.close();
  });
});

describe('TLS', () => {
  let directory: string;
  let server: EtcdServer;
  const file = (name: string): string => join(directory, name);

  async function makeAuthority(name: string): Promise<void> {
    await execa`openssl req -x509 -days 2 ${KEY} -subj /CN=${name} -keyout ${file(`${name}.key`)} -out ${file(`${name}.crt`)}`;
  }

  async function makeCertificate(name: string, usage: string): Promise<void> {
    const [request, extensions] = [file(`${name}.csr`), file(`${name}.ext`)];
    await writeFile(extensions, `subjectAltName=IP:127.0.0.1\nextendedKeyUsage=${usage}\n`);
    await execa`openssl req -new ${KEY} -subj /CN=${name} -keyout ${file(`${name}.key`)} -out ${request}`;
    const authority = ['-CA', file('ca.crt'), '-CAkey', file('ca.key'), '-CAcreateserial'];
    await execa`openssl x509 -req -days 2 -in ${request} ${authority} -extfile ${extensions} -out ${file(`${name}.crt`)}`;
  }

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'holdfast-tls-'));
    await makeAuthority('ca');
    await makeAuthority('stranger');
    await makeCertificate('server', 'serverAuth,clientAuth');
    await makeCertificate('client', 'clientAuth');
    server = await EtcdServer.start({
      ca: file('ca.crt'),
      cert: file('server.crt'),
      key: file('server.key'),
      client: { cert: file('client.crt'), key: file('client.key') },
    });
  });

  afterAll(async () => {
    await server.dispose();
    await rm(directory, { recursive: true });
  });

  const open = async (tls?: { ca?: string; cert?: string; key?: string }): Promise<EtcdStore> =>
    await EtcdStore.open({
      endpoints: [server.address],
      prefix: '/tls',
      timeoutMs: 1000,
      ...(tls === undefined ? {} : { tls }),
    });

  test('the store works over TLS with a client certificate', async () => {
    const store = await open({ ca: file('ca.crt'), cert: file('client.crt'), key: file('client.key') });
    expect(await store.compareAndSwap('a', 0, '1')).toMatchObject({ swapped: true });
    await store.close();
  });

  test('a server signed by somebody else is not believed, and the error names --store-ca', async () => {
    const options = { ca: file('stranger.crt'), cert: file('client.crt'), key: file('client.key') };
    await expect(open(options)).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: expect.stringMatching(/certificate.*--store-ca/),
    });
  });

  test('without a client certificate, or without TLS, the error names the options', async () => {
    await expect(open({ ca: file('ca.crt') })).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: expect.stringContaining('--store-cert'),
    });
    await expect(open()).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: expect.stringContaining('--store-ca'),
    });
  });

  test('a file that is missing or no certificate is named', async () => {
    await expect(open({ ca: file('nothing.crt') })).rejects.toMatchObject({
      code: 'INVALID',
      message: expect.stringContaining(file('nothing.crt')),
    });
    await expect(
      open({ ca: file('ca.crt'), cert: file('client.csr'), key: file('client.key') }),
    ).rejects.toMatchObject({ code: 'INVALID', message: expect.stringContaining('PEM') });
  });
});
