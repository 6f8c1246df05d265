// Notices that etcd is not the store it was: another cluster, or the same one taken back in time (a restored
// snapshot). Revision, raft term and raft index never fall in one history; each is compared with what had
// been seen when the request was sent, since answers may overtake each other.
//
// Invariant: once refused, always refused. Only a person decides that a restored store is the right one.

import { HoldfastError } from '../../core/errors.ts';
import type { ResponseHeader } from './messages.ts';

/** How far the store was. To be kept by whoever wants to recognise it after a restart. */
export interface StorePosition {
  readonly identity: string;
  readonly clusterId: string;
  /** Who answered. */
  readonly memberId: string;
  readonly revision: number;
  readonly raftTerm: number;
  /** 0: not known. A restored store counts it from the beginning again. */
  readonly raftIndex: number;
}

export class HistoryGuard {
  #seen: StorePosition;
  #refusal: HoldfastError | undefined;

  constructor(seen: StorePosition) {
    this.#seen = seen;
  }

  get seen(): StorePosition {
    return this.#seen;
  }

  /** Before a request: what its answer may not fall behind. */
  mark(): StorePosition {
    if (this.#refusal !== undefined) throw this.#refusal;
    return this.#seen;
  }

  /** After a linearizable request. Throws CORRUPT. */
  check(header: ResponseHeader | null | undefined, mark: StorePosition, raftIndex = 0): StorePosition {
    this.checkCluster(header);
    const found = {
      ...mark,
      memberId: header?.member_id ?? '',
      revision: Number(header?.revision ?? 0),
      raftTerm: Number(header?.raft_term ?? 0),
      raftIndex,
    };
    if (found.revision < mark.revision) this.refuse('revision', mark.revision, found.revision);
    if (found.raftTerm < mark.raftTerm) this.refuse('raft term', mark.raftTerm, found.raftTerm);
    if (raftIndex > 0 && raftIndex < mark.raftIndex) this.refuse('raft index', mark.raftIndex, raftIndex);
    const seen = this.#seen;
    this.#seen = {
      ...found,
      revision: Math.max(found.revision, seen.revision),
      raftTerm: Math.max(found.raftTerm, seen.raftTerm),
      raftIndex: Math.max(raftIndex, seen.raftIndex),
    };
    return this.#seen;
  }

  /** Any answer, also one that may be behind: watches. Throws CORRUPT. */
  checkCluster(header: ResponseHeader | null | undefined): void {
    if (this.#refusal !== undefined) throw this.#refusal;
    const { clusterId } = this.#seen;
    if (header?.cluster_id !== clusterId) this.refuse('cluster id', clusterId, header?.cluster_id ?? 'none');
  }

  refuse(what: string, seen: number | string, found: number | string): never {
    this.#refusal ??= new HoldfastError(
      'CORRUPT',
      `etcd is not the store that it was: its ${what} was ${seen} and is ${found}. It was restored from a backup, or --store names another one. ` +
        'Nothing is changed in it. Bring back the right store; if this one is to be used, start once with --accept-store any.',
      { details: { what, seen, found } },
    );
    throw this.#refusal;
  }
}
