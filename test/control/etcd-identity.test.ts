// Who makes the store when several daemons start at once.

import { afterAll, beforeAll, expect, test } from 'vitest';
import { EtcdClient } from '../../src/control/etcd/client.ts';
import { EtcdStore } from '../../src/control/etcd/etcd-store.ts';
import { readIdentity } from '../../src/control/etcd/identity.ts';
import type { RequestOf, ResponseOf, UnaryName } from '../../src/control/etcd/methods.ts';
import { KeySpace } from '../../src/control/etcd/stored-value.ts';
import { EtcdServer } from './etcd-server.ts';

let server: EtcdServer;

beforeAll(async () => {
  server = await EtcdServer.start();
});
afterAll(async () => await server.dispose());

/** Lets something happen after the first read. */
class InterruptedClient extends EtcdClient {
  afterFirst: (() => Promise<void>) | undefined;

  override async repeatable<Name extends UnaryName>(
    name: Name,
    request: RequestOf<Name>,
  ): Promise<ResponseOf<Name>> {
    const answer = await super.repeatable(name, request);
    const { afterFirst } = this;
    this.afterFirst = undefined;
    await afterFirst?.();
    return answer;
  }
}

test('a store that another daemon made and used since the first look is taken as it is', async () => {
  const options = { endpoints: [server.address], prefix: '/shared' };
  const client = new InterruptedClient(options);
  let made: string | undefined;
  client.afterFirst = async () => {
    const store = await EtcdStore.open(options);
    made = store.identity;
    await store.compareAndSwap('a', 0, '1');
    await store.close();
  };
  const { identity } = await readIdentity(client, new KeySpace(options.prefix), {});
  expect(identity).toBe(made);
  client.close();
});
