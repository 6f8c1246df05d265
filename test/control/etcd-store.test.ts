import { afterAll, beforeAll } from 'vitest';
import { randomUUID } from 'node:crypto';
import { EtcdStore } from '../../src/control/etcd/etcd-store.ts';
import { storeContract } from '../store-contract.ts';
import { EtcdServer } from './etcd-server.ts';

let server: EtcdServer;

beforeAll(async () => {
  server = await EtcdServer.start();
});

afterAll(async () => {
  await server.dispose();
});

// One server, and for every store a prefix of its own.
storeContract('etcd', async () => {
  const prefix = `/test/${randomUUID()}`;
  return {
    leaseMs: 1000,
    connect: async () => await EtcdStore.open({ endpoints: [server.address], prefix }),
    dispose: async () => undefined,
  };
});
