// What a role (primary, secondary) needs of the replica it belongs to.

import type { Backoff } from './backoff.ts';
import type { Opener, StoredConfig, VolumeConfig } from './config.ts';
import type { Copy } from './copy.ts';
import type { FrameFields } from './frames.ts';
import type { Superblock } from './layout/superblock.ts';
import type { ReplicaPorts } from './ports.ts';
import type { RequestTable } from './requests.ts';
import type { BrokenRules } from './rules.ts';

export interface Hub {
  readonly table: RequestTable;
  readonly ports: ReplicaPorts;
  readonly broken: BrokenRules;
  readonly copy: Copy;
  readonly replicaId: string;
  readonly incarnation: string;
  readonly bootId: string;
  /** Filled and sent at once, again and again. */
  readonly out: FrameFields;
  /** The newest configuration this process has seen committed. */
  readonly known: StoredConfig;
  readonly superblock: Superblock;
  /** It was in sync once, and its tables can be believed: a delta is enough for it. */
  readonly isDeltaBase: boolean;
  /** A proposal of this process whose outcome is not known. */
  readonly pending: VolumeConfig | undefined;
  /** Between handovers because of its own disk: the next primary's may be no better, and give the place back. */
  readonly leaving: Backoff;
  /** Named in a handover to this process. */
  readonly offeredOpening: string;
  opener(opening: string): Opener;
  learn(stored: StoredConfig): void;
  /** Reads the store soon: something there must have changed. */
  look(): void;
  submit(config: VolumeConfig): void;
  /** `then`: it is durable; never, if the superblock cannot be written. */
  keep(change: Partial<Superblock>, then: () => void): void;
  /** False: its superblock could not be written, and nothing is promised any more. */
  readonly canKeep: boolean;
}
