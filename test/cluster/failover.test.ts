// A volume of two copies under a checked load from a third node, while everything happens to the node that has the
// primary: the client waits for a while and sees nothing else. Needs root, for the network.

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { until } from '../daemon/daemon.fixture.ts';
import { HistoryClient, type Load, VolumeHistory } from '../support/history-client.ts';
import { type ClusterNode, TestCluster } from './cluster.ts';
import { ClusterVolume, type VolumeExport } from './cluster-volume.ts';

/** Leaves the machine some room: there are five processes beside this one. */
const LOAD = { depth: 8, thinkMs: 5 };
/** Leases, a busy machine, and room. */
const ANSWERED_MS = 60_000;
const IN_SYNC_MS = 90_000;

/** What happens to the node of the primary, and how it is undone. */
interface Fault {
  readonly name: string;
  strike(primary: ClusterNode, other: ClusterNode, client: ClusterNode): Promise<void> | void;
  repair(primary: ClusterNode): Promise<void> | void;
}

describe.skipIf(process.geteuid?.() !== 0)(
  'a volume of two copies (needs root)',
  { timeout: 240_000 },
  () => {
    let cluster: TestCluster;
    let volume: ClusterVolume;
    let observer: ClusterNode;
    let exported: VolumeExport;
    let client: HistoryClient;
    let load: Load;
    const history = new VolumeHistory();

    beforeAll(async () => {
      cluster = await TestCluster.start({ nodes: ['a', 'b', 'c'] });
      const [first] = cluster.nodes;
      if (first === undefined) throw new Error('a cluster has nodes');
      volume = await ClusterVolume.create(first, 'data', '--size', '16MiB', '--replicas', '1');
      const { replicas } = await volume.untilInSync(first, 2);
      observer = cluster.nodes.find(({ name }) => replicas.every(({ node }) => node !== name)) ?? first;
      exported = await volume.exportAt(observer, cluster.path('data.sock'));
      client = await HistoryClient.connect(history, exported);
    }, 120_000);
    afterAll(async () => {
      client?.abandon();
      await exported?.end();
      await cluster?.[Symbol.asyncDispose]();
    }, 60_000);

    beforeEach(async () => {
      load = client.load(LOAD);
      await goesOn();
    });
    afterEach(async () => {
      await cluster.network.heal();
      await load.stop();
    });

    /** Requests are answered, many more than can have been on their way. */
    async function goesOn(): Promise<void> {
      const before = load.requests;
      await until('the client is answered', () => load.requests > before + 200, ANSWERED_MS);
    }

    async function expectNothingLost(): Promise<void> {
      const { errors, brokenBy } = await load.stop();
      expect(brokenBy).toBeUndefined();
      expect(errors).toEqual(new Map());
      await client.readAll();
      expect(history.complaints).toEqual([]);
    }

    const faults: Fault[] = [
      { name: 'is killed', strike: (primary) => primary.kill(), repair: (primary) => primary.start() },
      { name: 'stands still', strike: (primary) => primary.freeze(), repair: (primary) => primary.thaw() },
      {
        name: 'is cut off from everybody',
        strike: (primary) => cluster.network.isolate(primary.name),
        repair: () => cluster.network.heal(),
      },
      {
        name: 'is cut off from everybody with resets',
        strike: (primary) => cluster.network.isolate(primary.name, 'refused'),
        repair: () => cluster.network.heal(),
      },
      {
        name: 'hears nothing any more',
        async strike(primary, other, using) {
          for (const { name } of [other, using]) await cluster.network.cutOneWay(name, primary.name);
          await cluster.cutFromStore(primary.name);
        },
        repair: () => cluster.network.heal(),
      },
    ];

    test.each(faults)('outlives that the node of its primary $name', async ({ strike, repair }) => {
      const before = await volume.untilInSync(observer, 2, IN_SYNC_MS);
      const primary = cluster.node(before.primary);
      const other = cluster.node(before.inSync.find((name) => name !== before.primary) ?? '');
      await strike(primary, other, observer);
      await goesOn();
      expect((await volume.show(observer)).primary).toBe(other.name);
      await repair(primary);
      await goesOn();
      await volume.untilInSync(observer, 2, IN_SYNC_MS);
      await expectNothingLost();
    });
  },
);
