// The daemon: opens everything in order, serves until it is told to stop, closes everything in reverse.
//
// Order of the start: what the process must be, the data directory's lock, the store, the pools and threads,
// repair of what a crash left, devices found again, then the servers; the API socket comes last and means that
// all the rest is there. A stop leaves devices in place: the kernel keeps their requests for the next daemon.

import { readFileSync } from 'node:fs';
import { flushCompileCache } from 'node:module';
import { join } from 'node:path';
import closeWithGrace from 'close-with-grace';
import { replicaCalls } from '../../control/channel/replica-calls.ts';
import { keepHouse, noteLostNodes } from '../../control/housekeeping.ts';
import { Leadership, leaderOf } from '../../control/leadership.ts';
import { finishAll } from '../../control/repair-cluster.ts';
import { NodeMembership } from '../../control/node-membership.ts';
import { NodeRecord } from '../../control/node-record.ts';
import type { VolumeRecord } from '../../control/records.ts';
import type { Store } from '../../control/store.ts';
import { VolumeRecords } from '../../control/volume-records.ts';
import { volumeDuties } from '../../control/volume-duties.ts';
import { Volumes } from '../../control/volumes.ts';
import type { JudgeAttachment } from '../../core/attachment-verdict.ts';
import { packageFile } from '../../dataplane/package-files.ts';
import { errorText } from '../../core/errors.ts';
import { createNodeStorage } from '../../dataplane/create-storage.ts';
import { KnownPools } from '../../dataplane/known-pools.ts';
import type { PoolEvent } from '../../dataplane/node-pools.ts';
import { native } from '../../dataplane/native.ts';
import { findRunDirectory } from '../../dataplane/run-directory.ts';
import type { ThreadEvent } from '../../dataplane/thread-messages.ts';
import { DeviceRecords } from '../../host/device-records.ts';
import { HeldDevices } from '../../host/held-devices.ts';
import { NbdDevices } from '../../host/nbd-devices.ts';
import { repairStaleMounts } from '../../host/stale-mounts.ts';
import { Health } from '../../observe/health.ts';
import { createLogger, type Logger } from '../../observe/log.ts';
import { EXIT_CODE } from '../api-errors.ts';
import { startApiServer } from '../api-server.ts';
import { unknownVariables } from '../config.ts';
import type { Config } from '../config-options.ts';
import { readClusterOptions } from './cluster-options.ts';
import { claimNode } from './claim-node.ts';
import { controlApi } from './control-api.ts';
import { lockDataDirectory } from './data-directory.ts';
import { Exports } from './exports.ts';
import { becomeIoFlusher } from './io-flusher.ts';
import { openStore } from './open-store.ts';
import { type Cluster, joinCluster } from './join-cluster.ts';
import { listenForPeers } from './peers.ts';
import { lockMemory, requireRing, testFaults } from './process-setup.ts';
import { type Sampled, scrapeOf } from './samples.ts';
import { serveAlone } from './serve-alone.ts';

const SERVER_GRACE_MS = 5000;

function version(): string {
  const text = readFileSync(packageFile('package.json'), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

/** Nothing after such an error can be trusted: no clean marks, no goodbyes. The next daemon takes over. */
function stopAtOnce(log: Logger, health: Health, what: string, error: unknown): never {
  health.fail(what);
  log.fatal({ error, memory: process.memoryUsage() }, `${what}: the daemon stops at once`);
  native.exitAtOnce(EXIT_CODE.INTERNAL);
}

function reportPool(log: Logger, event: PoolEvent): void {
  if (event.type === 'opened') return log.info(event, 'the pool is open');
  log.error(event, 'a pool cannot be opened; its volumes wait, the others serve, and it is tried again');
}

/** Ending frees nothing that such a thread holds: the others go on, and so does it when the disk answers. */
function reportHungDisk(log: Logger, pools: readonly string[], isOver: boolean): void {
  const disk = pools.length === 1 ? `pool '${pools[0]}'` : `one of the pools ${pools.join(', ')}`;
  if (isOver) return log.warn({ pools }, `the disk of ${disk} answers again`);
  log.fatal(
    { pools },
    `the disk of ${disk} hangs: the volumes of its data-plane thread wait until it answers, the others serve; look at ` +
      'the kernel log and the disk',
  );
}

function reportEvent(log: Logger, event: ThreadEvent): void {
  switch (event.type) {
    case 'ready':
      return;
    case 'poolSpace':
      return log.warn(
        event,
        event.isFull ? 'the pool of a volume is full' : 'the pool of a volume has room again',
      );
    case 'kernelSessionEnded':
      return log.warn(event, 'the kernel ended the session of a device');
    case 'refusedSession':
      return log.debug(event, 'a session was refused');
    case 'noKernelWorkers':
      return log.warn(
        event,
        'the kernel starts no worker for disk operations, which wait: look at the memory and at the limit of processes ' +
          '(pids.max) of this daemon',
      );
  }
}

/** A store that failed answers nothing more until the daemon is started again. */
async function storeProblem(store: Store): Promise<string | undefined> {
  try {
    await store.revision();
    return undefined;
  } catch (error) {
    return errorText(error);
  }
}

/** A volume that goes is no name's any more. */
function noteName({ names, failovers }: Sampled, { id, name, state }: VolumeRecord): void {
  if (state !== 'deleting') {
    names.set(id, name);
    return;
  }
  names.delete(id);
  failovers?.forget(id);
}

/** Nothing of it is left for later. */
async function repairAlone(volumes: Volumes, log: Logger): Promise<[]> {
  const report = await volumes.repair();
  for (const action of report.done) log.info(action, 'repaired what an earlier daemon left');
  for (const problem of report.problems) log.error(problem, 'a volume needs attention');
  for (const orphan of report.orphans) log.warn(orphan, 'a pool holds a copy that no volume knows');
  return [];
}

/** Resolves once the daemon serves. The process ends by a signal, or with 70 when something broke. */
export async function runDaemon(config: Config): Promise<void> {
  const log = createLogger({ level: config.logLevel, node: config.nodeName });
  const flusherProblem = becomeIoFlusher();
  if (flusherProblem !== undefined) {
    log.warn(
      { error: flusherProblem },
      'not an I/O flusher (needs CAP_SYS_RESOURCE): under memory pressure an attached device may hang',
    );
  }
  const health = new Health();
  process.on('uncaughtException', (error) => stopAtOnce(log, health, 'unexpected error', error));
  for (const warning of unknownVariables(process.env)) log.warn(warning);

  const resources = new AsyncDisposableStack();
  const stopping = new AbortController();
  const started = start({ config, log, health, resources, stopping: stopping.signal });
  const stop = async ({ signal }: { signal?: string | undefined }): Promise<void> => {
    log.info({ signal }, 'stopping');
    stopping.abort();
    health.enter('stopping');
    // A start that a signal interrupts ends by itself at its next step.
    await started.catch(() => undefined);
    await resources.disposeAsync();
    log.info('stopped');
  };
  const crashes = [
    'SIGILL',
    'SIGTRAP',
    'SIGABRT',
    'SIGBUS',
    'SIGFPE',
    'SIGSEGV',
    'SIGQUIT',
    'SIGUSR2',
  ] as const;
  const grace = closeWithGrace(
    {
      delay: config.stopTimeout,
      logger: { error: (reason) => log.error({ reason }, 'the stop failed') },
      skip: [...crashes, 'uncaughtException', 'unhandledRejection', 'beforeExit'],
      onTimeout: (delayMs) => {
        log.error({ delayMs }, 'the stop took too long; the next daemon repairs what is left');
        native.exitAtOnce(1);
      },
      onSecondSignal: (signal) => log.warn({ signal }, 'asked twice: stopping at once'),
    },
    stop,
  );
  try {
    await started;
  } catch (error) {
    if (stopping.signal.aborted) return;
    grace.uninstall();
    log.error({ error }, 'the daemon cannot start');
    await resources.disposeAsync();
    throw error;
  }
}

async function start(options: {
  config: Config;
  log: Logger;
  health: Health;
  resources: AsyncDisposableStack;
  stopping: AbortSignal;
}): Promise<void> {
  const { config, log, health, resources, stopping } = options;
  const startedAt = new Date();
  const began = performance.now();
  const faults = testFaults(process.env, log);
  lockMemory(config.lockMemory, log);
  const ring = requireRing();

  const cluster = await readClusterOptions(config, (text) => log.warn(text));

  const lock = await lockDataDirectory(config.dataDir);
  resources.defer(() => lock.close());
  const nodeRecord = await NodeRecord.load(join(config.dataDir, 'node.json'), config.nodeName);

  const current: Sampled = { names: new Map() };
  if (config.metrics !== undefined) {
    const { startHttpServer } = await import('../../observe/http-server.ts');
    const { createMetrics } = await import('../../observe/metrics.ts');
    const facts = { node: config.nodeName, version: version(), ringSetupFlags: ring.setupFlags };
    const registry = createMetrics(scrapeOf(current), facts);
    const metrics = async () => ({ contentType: registry.contentType, text: await registry.metrics() });
    const http = await startHttpServer({ ...config.metrics, health, metrics, log });
    resources.defer(() => http.close());
    log.info({ host: config.metrics.host, port: http.port }, 'serving metrics');
  }

  stopping.throwIfAborted();
  const openedStore = await openStore(config, nodeRecord, { sync: !faults.has('no-store-sync'), log });
  resources.defer(() => openedStore.close());
  const { store } = openedStore;
  health.askFor(async () => await storeProblem(store));
  const { nodes, self } = await claimNode(config, store, version());

  stopping.throwIfAborted();
  const runDirectory = await findRunDirectory(config.runDir);
  if (runDirectory.warning !== undefined) log.warn(runDirectory, 'the run directory is not in memory');
  let joined: Cluster | undefined;
  const opened = await createNodeStorage({
    nodeName: config.nodeName,
    runDirectory: runDirectory.path,
    pools: config.pool.map((pool) => ({
      ...pool,
      reserveBytes: config.poolReserve,
      overcommitRatio: config.overcommit,
    })),
    knownPools: await KnownPools.load(join(config.dataDir, 'pools.json')),
    onPoolEvent: (event) => {
      reportPool(log, event);
      if (event.type === 'opened') void joined?.keeper.poolOpened(); // never rejects
    },
    threadCount: config.threads,
    stuckAfterMs: config.stuckAfter,
    busyPollMicros: Math.round(config.busyPoll * 1000),
    testFaults: faults,
    onEvent: (event) => reportEvent(log, event),
    onHungDisk: (pools, isOver) => reportHungDisk(log, pools, isOver),
    onDeath: (error) => stopAtOnce(log, health, 'a data-plane thread died or is stuck', error),
  });
  current.storage = opened;
  resources.defer(() => opened.close());

  stopping.throwIfAborted();
  const onBroken = (error: unknown): never => stopAtOnce(log, health, 'broken invariant', error);
  const startNumber = await nodeRecord.countStart();
  if (config.store.kind === 'level') await serveAlone(store, opened, startNumber, log);
  else {
    joined = await joinCluster({
      store,
      nodes,
      self,
      storage: opened,
      options: cluster,
      startNumber,
      resyncLimit: config.resyncLimit,
      log,
      onBroken,
      onRecord: (record) => {
        noteName(current, record);
        const followed = volumes
          .recordChanged(record)
          .then(async () => await devices.grow(record.id, record.sizeBytes));
        followed.catch((error: unknown) => log.warn({ volumeId: record.id, error }, 'following a record'));
      },
    });
    resources.defer(() => joined?.close(SERVER_GRACE_MS));
    current.failovers = joined.failovers;
  }
  const volumes = new Volumes(store, opened, {
    node: config.nodeName,
    defaultPool: config.pool[0]?.name,
    maxVolumesPerNode: config.maxVolumes,
    replication: opened.cluster,
    cluster: joined && { nodes, calls: joined.calls },
  });
  const unfinished = joined === undefined ? await repairAlone(volumes, log) : await volumes.findUnfinished();
  joined?.keeper.start();

  const recordDirectory = join(config.dataDir, 'devices');
  const kernelDevices = new NbdDevices({ storage: opened, log, recordDirectory });
  const devices = new HeldDevices(kernelDevices, volumes, log);
  resources.defer(() => devices.release());
  current.devices = devices;
  const judge: JudgeAttachment = (volumeId, attachmentNumber) =>
    volumes.attachmentVerdict(volumeId, attachmentNumber);
  const volumeIds = await new DeviceRecords(recordDirectory).list();
  await repairStaleMounts({ volumeIds, judge, log });
  await devices.recover(judge);

  stopping.throwIfAborted();
  let peers = joined?.peers;
  if (joined === undefined && cluster !== undefined) {
    const handlers = replicaCalls({ self, storage: opened, records: new VolumeRecords(store) });
    const listening = await listenForPeers(cluster, { store, self, handlers, log });
    resources.defer(() => listening.close(SERVER_GRACE_MS));
    peers = listening;
  }
  const membership = new NodeMembership(store, nodes, self, opened, {
    isShared: config.store.kind !== 'level',
    address: peers?.address ?? null,
    log,
  });
  resources.defer(() => membership.close());
  membership.start();
  const duties = [noteLostNodes(nodes, log)];
  if (joined !== undefined) {
    const records = new VolumeRecords(store);
    const replaceAfterMs = config.replaceAfter;
    duties.push(...volumeDuties({ store, nodes, records, volumes, replaceAfterMs, log }));
  }
  const leadership = new Leadership(store, {
    node: self.name,
    process: self.process,
    log,
    work: (signal) => keepHouse(duties, { signal, log }),
  });
  resources.defer(() => leadership.close());
  leadership.start();

  if (config.csi !== undefined) {
    const { startCsiServer } = await import('../../csi/server.ts');
    const csi = await startCsiServer({
      socketPath: config.csi,
      driverName: config.csiDriverName,
      version: version(),
      node: config.nodeName,
      volumes,
      inCluster: joined !== undefined,
      devices,
      maxVolumesPerNode: config.maxVolumes,
      log,
      problem: async () => await health.problem(),
      onBroken,
    });
    resources.defer(() => csi.close(SERVER_GRACE_MS));
  }

  stopping.throwIfAborted();
  const api = await startApiServer({
    path: config.api,
    log,
    handlers: controlApi({
      node: config.nodeName,
      version: version(),
      startedAt,
      store,
      volumes,
      storage: opened,
      nodes,
      peers,
      leader: () => leaderOf(store),
      devices,
      exports: new Exports(volumes, opened),
      calls: joined?.calls,
    }),
  });
  resources.defer(() => api.close(SERVER_GRACE_MS));
  void finishAll(unfinished, log).catch(onBroken);
  health.enter('serving');
  log.info({ api: config.api, startMs: Math.round(performance.now() - began) }, 'serving');
  // Node writes it at the end of the process, which may be a SIGKILL: the next start is to find it.
  flushCompileCache();
}
