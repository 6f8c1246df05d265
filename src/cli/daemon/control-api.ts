// The control API's handlers: each translates one request into calls of the services, and the answer back.

import { readSettings, setMaintenance } from '../../control/cluster-settings.ts';
import type { PeerCalls } from '../../control/channel/peer-calls.ts';
import type { Nodes } from '../../control/nodes.ts';
import { rebuildCatalog } from '../../control/rebuild-catalog.ts';
import type { VolumeRecord } from '../../control/records.ts';
import type { Store } from '../../control/store.ts';
import { optionOrLabel, optionsOfLabels, parseFailureMode } from '../../control/volume-labels.ts';
import { invariant } from '../../core/invariant.ts';
import type { NodeStorage } from '../../dataplane/node-storage.ts';
import type { ApiHandlers, NodeView, Response, VolumeView } from '../api-schema.ts';
import { type AttachContext, attachVolume, detachVolume } from './attach.ts';
import { explainVolume } from './explain.ts';
import type { Exports } from './exports.ts';
import type { Peers } from './peers.ts';
import { type Here, nodeView, poolView, rebuildView, volumeView } from './views.ts';

export interface ControlApiContext extends AttachContext {
  readonly storage: NodeStorage;
  readonly nodes: Nodes;
  /** undefined: this daemon talks with no other. */
  readonly peers: Peers | undefined;
  /** Whose daemon does the housekeeping. */
  readonly leader: () => Promise<string | undefined>;
  readonly exports: Exports;
  /** To the daemons of other nodes; undefined: there is no cluster. */
  readonly calls: PeerCalls | undefined;
  readonly store: Store;
  readonly version: string;
  readonly startedAt: Date;
}

type ClusterStatus = Response<'GetClusterStatus'>;

export function controlApi(context: ControlApiContext): ApiHandlers {
  const { volumes, storage, nodes, devices, exports } = context;

  const isUsed = (volumeId: string): boolean => volumes.isUsedHere(volumeId);
  const here = (): Here => ({ node: context.node, devices, closed: storage.closedPools(), isUsed });
  const view = async (record: VolumeRecord): Promise<VolumeView> =>
    volumeView(record, await storage.replica(record.id), here(), await volumes.lookAtCopies(record));

  const viewOfNode = async (name: string): Promise<NodeView> => {
    const node = await nodes.find(name);
    return nodeView(node, await volumes.list(), await context.peers?.problemWith(node));
  };

  const clusterStatus = async (): Promise<ClusterStatus> => {
    const all = await nodes.list();
    const records = await volumes.list();
    const { maintenanceSince } = await readSettings(context.store);
    return {
      storeIdentity: context.store.identity,
      leader: (await context.leader()) ?? '',
      nodes: all.length,
      nodesAlive: all.filter(({ isAlive }) => isAlive).length,
      nodesCordoned: all.filter(({ cordoned }) => cordoned).length,
      volumes: records.length,
      volumesDegraded: records.filter(({ inSync, replicas }) => inSync.length < replicas.length).length,
      maintenanceSince: maintenanceSince ?? '',
    };
  };

  return {
    async GetStatus() {
      return {
        node: context.node,
        version: context.version,
        storeIdentity: context.store.identity,
        startedAt: context.startedAt.toISOString(),
        processId: process.pid,
        volumes: (await volumes.list()).length,
        devices: devices.list().length,
      };
    },

    async ListNodes() {
      const records = await volumes.list();
      return { nodes: (await nodes.list()).map((node) => nodeView(node, records)) };
    },

    async GetNode({ node }) {
      return await viewOfNode(node);
    },

    async SetCordoned({ node, cordoned }) {
      // Names the nearest where there is none.
      await nodes.find(node);
      await nodes.setCordoned(node, cordoned);
      return await viewOfNode(node);
    },

    async DrainNode({ node }) {
      volumes.requireCluster('a drain');
      await nodes.find(node);
      await nodes.setDraining(node);
      return await viewOfNode(node);
    },

    async GetClusterStatus() {
      return await clusterStatus();
    },

    async SetMaintenance({ on }) {
      volumes.requireCluster('maintenance');
      await setMaintenance(context.store, on);
      return await clusterStatus();
    },

    async RebuildCatalog({ dryRun, nodes: nodeCount, force }) {
      volumes.requireCluster('a rebuild of the catalog');
      const { calls } = context;
      invariant(calls !== undefined, 'a daemon of a cluster can call the others');
      const report = await rebuildCatalog(
        { node: context.node, store: context.store, nodes, calls },
        { isDryRun: dryRun, nodeCount: nodeCount === 0 ? undefined : nodeCount, isForced: force },
      );
      return rebuildView(report);
    },

    async ListPools({ pool }) {
      const capacities = await volumes.capacity(pool === '' ? undefined : pool);
      const statuses = new Map((await storage.pools()).map((status) => [status.name, status]));
      const closed = new Map(storage.closedPools().map((found) => [found.name, found]));
      return {
        pools: capacities.map((capacity) =>
          poolView(capacity, statuses.get(capacity.pool), closed.get(capacity.pool)),
        ),
      };
    },

    async ForgetPool({ pool, force }) {
      await volumes.forgetPool(pool, force);
      return {};
    },

    async CreateVolume(request) {
      const asked = optionsOfLabels(request.labels);
      const mode = request.failureMode === '' ? 'soft' : parseFailureMode(request.failureMode);
      const record = await volumes.create({
        name: request.name,
        sizeBytes: request.sizeBytes,
        pool: request.pool === '' ? undefined : request.pool,
        replicaCount: optionOrLabel(
          '--replicas',
          request.replicas,
          asked.replicaCount,
          request.replicas === 0,
        ),
        durability: request.durability === '' ? 'writeback' : request.durability,
        failureMode: optionOrLabel('--failure-mode', mode, asked.failureMode, request.failureMode === ''),
        fileSystemType: null,
        labels: asked.labels,
      });
      return view(record);
    },

    async ListVolumes() {
      const records = await volumes.list();
      const replicas = new Map((await storage.replicas()).map((replica) => [replica.volumeId, replica]));
      const views = records.map((record) => volumeView(record, replicas.get(record.id), here()));
      return { volumes: views.sort((a, b) => (a.name < b.name ? -1 : Number(a.name > b.name))) };
    },

    async GetVolume({ volume }) {
      return view(await volumes.find(volume));
    },

    async ResizeVolume({ volume, sizeBytes }) {
      const { id } = await volumes.find(volume);
      const record = await volumes.resize(id, sizeBytes);
      if (devices.find(id) !== undefined) await devices.resize(id, record.sizeBytes);
      return view(record);
    },

    async DeleteVolume({ volume }) {
      return { left: [...(await volumes.delete((await volumes.find(volume)).id))] };
    },

    async SetReplicas({ volume, replicas }) {
      const { record, left } = await volumes.setReplicas((await volumes.find(volume)).id, replicas);
      return { volume: await view(record), left: [...left] };
    },

    async SetFailureMode({ volume, failureMode: text }) {
      return view(await volumes.setFailureMode((await volumes.find(volume)).id, parseFailureMode(text)));
    },

    async MoveVolume({ volume, node }) {
      return view(await volumes.movePrimary((await volumes.find(volume)).id, node));
    },

    async ReadmitCopy({ volume, node }) {
      const record = await volumes.find(volume);
      await volumes.readmit(record, node);
      return view(record);
    },

    async ForcePromotion({ volume, node, off }) {
      return view(await volumes.forcePromotion((await volumes.find(volume)).id, node, off));
    },

    async GetTimeline({ volume }) {
      const { lines, missing } = await volumes.timeline(await volumes.find(volume));
      return { lines: [...lines], missing: [...missing] };
    },

    async AttachVolume({ volume, readOnly }) {
      const device = await attachVolume(context, volume, readOnly);
      return { device: device.path, attachmentNumber: device.attachmentNumber };
    },

    async DetachVolume({ volume, force }) {
      await detachVolume(context, volume, force);
      return {};
    },

    async ExplainVolume({ volume }) {
      return { findings: await explainVolume(context, volume) };
    },

    ExportVolume: (request, signal) => exports.serve(request, signal),
  };
}
