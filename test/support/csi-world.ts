// A node with CSI: the real server on a Unix socket, the real volume service on a real store, and a gRPC
// client as kubelet's. Bytes are in memory storage (controller) and on loop devices (node).

import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Client, credentials, loadPackageDefinition, type ServiceError, status } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import { execa } from 'execa';
import { GIB } from '../../src/core/units.ts';
import type {
  ControllerService,
  CreateVolumeRequest,
  IdentityService,
  NodeService,
  Sent,
  VolumeCapability,
  VolumeCapabilityAccessModeMode,
} from '../../src/csi/messages.ts';
import { type CsiServer, type CsiServerOptions, startCsiServer } from '../../src/csi/server.ts';
import { HeldDevices } from '../../src/host/held-devices.ts';
import { silentLogger } from '../../src/observe/log.ts';
import { LoopDevices } from './loop-devices.ts';
import { NODE, VolumeWorld } from './volume-world.ts';

type Services = IdentityService & ControllerService & NodeService;
type Method = keyof Services;
/** As received: nothing is left out. */
type Received<T> = { [Key in keyof T]-?: Exclude<T[Key], undefined> };
type Reply<M extends Method> = Received<Awaited<ReturnType<Services[M]>>>;
type Call = (
  request: unknown,
  options: { deadline: number },
  callback: (error: ServiceError | null, reply: unknown) => void,
) => void;

const CALL_TIMEOUT_MS = 25_000;

export class CsiWorld {
  readonly directory: string;
  readonly volumes: VolumeWorld;
  readonly devices: LoopDevices;
  #server: CsiServer;
  readonly #clients: readonly Client[];

  static async open(options: Partial<CsiServerOptions> = {}): Promise<CsiWorld> {
    const directory = mkdtempSync(join(tmpdir(), 'holdfast-csi-'));
    const volumes = await VolumeWorld.open(join(directory, 'store'), {
      maxVolumesPerNode: options.maxVolumesPerNode ?? 8,
    });
    await volumes.volumes.repair();
    mkdirSync(join(directory, 'files'));
    const devices = new LoopDevices(join(directory, 'files'));
    try {
      return new CsiWorld(directory, volumes, devices, await serve(directory, volumes, devices, options));
    } catch (error) {
      await volumes.store.close();
      rmSync(directory, { recursive: true });
      throw error;
    }
  }

  private constructor(directory: string, volumes: VolumeWorld, devices: LoopDevices, server: CsiServer) {
    this.directory = directory;
    this.volumes = volumes;
    this.devices = devices;
    this.#server = server;
    this.#clients = connect(this.socketPath);
  }

  get socketPath(): string {
    return socketIn(this.directory);
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  /** The next process of the daemon: what only memory knew is forgotten, devices and mounts are there. */
  async restartServer(options: Partial<CsiServerOptions> = {}): Promise<void> {
    await this.#server.close(5000);
    this.#server = await serve(this.directory, this.volumes, this.devices, options);
  }

  async call<M extends Method>(method: M, request: Sent<Parameters<Services[M]>[0]>): Promise<Reply<M>> {
    const client = this.#clients.find((candidate) => method in candidate) as unknown as Record<M, Call>;
    return await new Promise((resolve, reject) => {
      client[method](request, { deadline: Date.now() + CALL_TIMEOUT_MS }, (error, reply) =>
        error === null ? resolve(reply as Reply<M>) : reject(error),
      );
    });
  }

  /** The name of the status that the call ends with: 'OK', 'ABORTED', … and its text. */
  async outcome<M extends Method>(method: M, request: Sent<Parameters<Services[M]>[0]>): Promise<string> {
    try {
      await this.call(method, request);
      return 'OK';
    } catch (error) {
      const { code, details } = error as ServiceError;
      return `${status[code]}: ${details}`;
    }
  }

  async createVolume(name: string, request: Sent<CreateVolumeRequest> = {}): Promise<string> {
    const { volume } = await this.call('CreateVolume', {
      name,
      volume_capabilities: [mountCapability()],
      capacity_range: { required_bytes: GIB },
      ...request,
    });
    return volume?.volume_id ?? '';
  }

  /** Created and published to this node. */
  async publishedVolume(name: string, request: Sent<CreateVolumeRequest> = {}): Promise<string> {
    const volumeId = await this.createVolume(name, request);
    await this.call('ControllerPublishVolume', {
      volume_id: volumeId,
      node_id: NODE,
      volume_capability: request.volume_capabilities?.[0] ?? mountCapability(),
    });
    return volumeId;
  }

  /** Also after a failed test: nothing stays mounted or attached. */
  async close(): Promise<void> {
    for (const client of this.#clients) client.close();
    await this.#server.close(5000);
    const { stdout } = await execa('findmnt', ['--list', '--noheadings', '--output', 'TARGET'], {
      reject: false,
    });
    for (const target of stdout.split('\n').reverse()) {
      if (target.startsWith(this.directory)) await execa('umount', ['--lazy', target], { reject: false });
    }
    await this.devices.removeAll();
    await this.volumes.store.close();
    rmSync(this.directory, { recursive: true, force: true });
  }
}

async function serve(
  directory: string,
  world: VolumeWorld,
  devices: LoopDevices,
  options: Partial<CsiServerOptions>,
): Promise<CsiServer> {
  const { volumes } = world;
  return await startCsiServer({
    socketPath: socketIn(directory),
    version: '1.2.3',
    node: NODE,
    volumes,
    devices: new HeldDevices(devices, volumes, silentLogger),
    maxVolumesPerNode: 8,
    log: silentLogger,
    ...options,
  });
}

function socketIn(directory: string): string {
  return join(directory, 'csi.sock');
}

function connect(socketPath: string): Client[] {
  const path = fileURLToPath(new URL('../../proto/csi.proto', import.meta.url));
  const definition = loadSync(path, {
    keepCase: true,
    longs: Number,
    enums: String,
    defaults: true,
    oneofs: true,
  });
  const { csi } = loadPackageDefinition(definition) as unknown as {
    csi: { v1: Record<string, new (...args: unknown[]) => Client> };
  };
  return ['Identity', 'Controller', 'Node'].flatMap((name) => {
    const Service = csi.v1[name];
    // kubelet and csi-sanity send this authority.
    const options = { 'grpc.default_authority': 'localhost' };
    return Service === undefined
      ? []
      : [new Service(`unix:${socketPath}`, credentials.createInsecure(), options)];
  });
}

type Mode = VolumeCapabilityAccessModeMode;

export function mountCapability(
  fsType = '',
  mode: Mode = 'SINGLE_NODE_WRITER',
  mountFlags: readonly string[] = [],
): Sent<VolumeCapability> {
  return { mount: { fs_type: fsType, mount_flags: mountFlags }, access_mode: { mode } };
}

export function blockCapability(mode: Mode = 'SINGLE_NODE_WRITER'): Sent<VolumeCapability> {
  return { block: {}, access_mode: { mode } };
}
