// A node's storage in memory with what a cluster asks of it beside: copies that are open or not, and frontends.
// Nothing is replicated: it shows what was asked.

import { HoldfastError } from '../../src/core/errors.ts';
import { invariant } from '../../src/core/invariant.ts';
import type { ClusterStorage, OpenFrontend } from '../../src/dataplane/cluster-storage.ts';
import type { OpeningReport } from '../../src/dataplane/node-storage.ts';
import { type MemoryDisks, MemoryStorage } from './memory-storage.ts';

type Shown = Pick<
  ClusterStorage,
  | 'closeFrontend'
  | 'closeReplica'
  | 'configChanged'
  | 'growFrontend'
  | 'isFrontendOpen'
  | 'isReplicaOpen'
  | 'openFrontend'
  | 'openReplica'
>;

export class MemoryClusterStorage extends MemoryStorage implements Shown {
  readonly openReplicas = new Set<string>();
  readonly frontends = new Map<string, OpenFrontend>();
  readonly configChanges: string[] = [];
  /** By pool: openings there wait for it. */
  readonly hung = new Map<string, Promise<void>>();
  opening = 0;
  mostOpening = 0;

  constructor(disks: MemoryDisks) {
    super(disks);
  }

  async openReplica(volumeId: string): Promise<OpeningReport> {
    this.opening += 1;
    this.mostOpening = Math.max(this.mostOpening, this.opening);
    try {
      await this.hung.get(this.disks.replicas.get(volumeId)?.spec.pool ?? '');
      this.superblockOf(volumeId);
      this.openReplicas.add(volumeId);
      return { lastEnd: 'clean', isWindowIntact: false };
    } finally {
      this.opening -= 1;
    }
  }

  async closeReplica(volumeId: string): Promise<void> {
    this.openReplicas.delete(volumeId);
  }

  isReplicaOpen(volumeId: string): boolean {
    return this.openReplicas.has(volumeId);
  }

  override isOpen(volumeId: string): boolean {
    return super.isOpen(volumeId) || this.openReplicas.has(volumeId);
  }

  configChanged(volumeId: string): void {
    this.configChanges.push(volumeId);
  }

  async openFrontend(frontend: OpenFrontend): Promise<void> {
    const standing = this.frontends.get(frontend.volumeId);
    invariant(
      standing === undefined || standing.attachmentNumber < frontend.attachmentNumber,
      'a frontend is opened once for an attachment, and never for an older one',
    );
    this.frontends.set(frontend.volumeId, frontend);
  }

  async closeFrontend(volumeId: string): Promise<void> {
    this.frontends.delete(volumeId);
  }

  isFrontendOpen(volumeId: string): boolean {
    return this.frontends.has(volumeId);
  }

  async growFrontend(volumeId: string, sizeBytes: number): Promise<void> {
    const standing = this.frontends.get(volumeId);
    if (standing === undefined) throw new HoldfastError('CONFLICT', `no frontend of ${volumeId} is open`);
    this.frontends.set(volumeId, { ...standing, sizeBytes });
  }
}
