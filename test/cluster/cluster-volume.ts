// A volume of a test cluster as people use it: `holdfast volume …` at any of the nodes, and nothing else.

import { setTimeout as delay } from 'node:timers/promises';
import { Child, until } from '../daemon/daemon.fixture.ts';
import type { ClusterNode } from './cluster.ts';

/** What `holdfast volume show --json` tells of its copies. */
export interface ShownVolume {
  readonly epoch: number;
  /** Node names. */
  readonly primary: string;
  readonly inSync: readonly string[];
  readonly replicas: readonly { readonly node: string; readonly state: string }[];
}

/** A command at a terminal costs a tenth of a second of processor time. */
const READMIT_EVERY_MS = 5000;
const LOOK_EVERY_MS = 400;
const EXPORT_MS = 30_000;

/** A node, as far as commands are given there. */
export type CommandNode = Pick<ClusterNode, 'name' | 'daemon' | 'json'>;

export class ClusterVolume {
  readonly name: string;

  static async create(via: CommandNode, name: string, ...options: string[]): Promise<ClusterVolume> {
    await via.json('volume', 'create', name, ...options);
    return new ClusterVolume(name);
  }

  constructor(name: string) {
    this.name = name;
  }

  async show(via: CommandNode): Promise<ShownVolume> {
    return await via.json<ShownVolume>('volume', 'show', this.name);
  }

  /** What must come true within the time; the error tells what was there instead. */
  async untilShown(
    via: CommandNode,
    what: string,
    isSo: (shown: ShownVolume) => boolean,
    timeoutMs = 60_000,
  ): Promise<ShownVolume> {
    let last: ShownVolume | undefined;
    let problem = '';
    const look = async (): Promise<ShownVolume | undefined> => {
      try {
        last = await this.show(via);
        if (isSo(last)) return last;
      } catch (error) {
        problem = String(error);
      }
      await delay(LOOK_EVERY_MS);
      return undefined;
    };
    try {
      return (await until(what, look, timeoutMs)) as ShownVolume;
    } catch (cause) {
      const seen = `volume "${this.name}" as node "${via.name}" shows it: ${JSON.stringify(last)} ${problem}`;
      throw new Error(`not within ${timeoutMs} ms: ${what}\n${seen}`, { cause });
    }
  }

  async untilInSync(via: CommandNode, count: number, timeoutMs?: number): Promise<ShownVolume> {
    const isSo = ({ inSync }: ShownVolume): boolean => inSync.length === count;
    // Copies leave more often here than a person would bear: who is held out for that is taken up.
    const readmitting = setInterval(() => void this.#readmit(via).catch(() => undefined), READMIT_EVERY_MS);
    try {
      return await this.untilShown(via, `${count} copies are in sync`, isSo, timeoutMs);
    } finally {
      clearInterval(readmitting);
    }
  }

  async #readmit(via: CommandNode): Promise<void> {
    const { inSync, replicas } = await this.show(via);
    for (const { node } of replicas)
      if (!inSync.includes(node)) await via.json('volume', 'readmit', this.name, node).catch(() => undefined);
  }

  /** Resolves when clients can connect. Any earlier export must have ended. */
  async exportAt(node: CommandNode, socketPath: string): Promise<VolumeExport> {
    const words = ['volume', 'export', this.name, '--unix', socketPath, '--json', '--api', node.daemon.api];
    const command = new Child(words);
    try {
      await until(
        `"${this.name}" is exported`,
        () => command.lines.length > 0 || command.process.exitCode !== null,
        EXPORT_MS,
      );
      const [line = ''] = command.lines;
      if (!line.startsWith('{"volumeId"'))
        throw new Error(`volume "${this.name}" is not exported: ${command.lines.join('\n')}`);
      return new VolumeExport(this.name, socketPath, command);
    } catch (error) {
      await command.end('SIGKILL');
      throw error;
    }
  }
}

export class VolumeExport {
  readonly exportName: string;
  readonly socketPath: string;
  readonly #command: Child;

  constructor(exportName: string, socketPath: string, command: Child) {
    this.exportName = exportName;
    this.socketPath = socketPath;
    this.#command = command;
  }

  get uri(): string {
    return `nbd+unix:///${this.exportName}?socket=${this.socketPath}`;
  }

  /** Its clients are gone then, or are cut off. */
  async end(): Promise<void> {
    if (this.#command.process.exitCode === null) await this.#command.end('SIGTERM');
  }
}
