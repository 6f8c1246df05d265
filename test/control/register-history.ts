// Is a history of one key linearizable? Every write has a value of its own and every answer names a revision,
// so the order is given by the revisions and nothing needs to be searched: what remains is whether they form
// one chain of swaps, each from the one before it, and whether that order respects real time. A swap with an
// unknown outcome may have happened, but only once, and counts from the moment somebody read it.

export interface Swap {
  readonly type: 'swap';
  readonly calledAt: number;
  /** Infinity: it was never answered. */
  readonly returnedAt: number;
  readonly expectedRevision: number;
  readonly value: string;
  readonly outcome: 'committed' | 'refused' | 'unknown';
  /** Of a committed one. */
  readonly revision?: number;
}

export interface Read {
  readonly type: 'read';
  readonly calledAt: number;
  readonly returnedAt: number;
  /** undefined, revision 0: the key did not exist. */
  readonly value: string | undefined;
  readonly revision: number;
}

interface Write {
  readonly swap: Swap;
  readonly revision: number;
}

/** What is wrong with it, in words; empty when nothing is. */
export function violations(history: readonly (Swap | Read)[]): string[] {
  const found: string[] = [];
  const swaps = history.filter((operation) => operation.type === 'swap');
  const reads = history.filter((operation) => operation.type === 'read');
  const writes = new Map<number, Write>();
  const happened = (swap: Swap, revision: number): void => {
    const other = writes.get(revision);
    if (other !== undefined && other.swap !== swap) found.push(`two swaps have revision ${revision}`);
    for (const write of writes.values()) {
      if (write.swap === swap && write.revision !== revision) found.push(`${swap.value} happened twice`);
    }
    writes.set(revision, { swap, revision });
  };
  for (const swap of swaps) {
    if (swap.outcome === 'committed') happened(swap, swap.revision ?? 0);
  }
  for (const read of reads) {
    if (read.value === undefined) continue;
    const swap = swaps.find(({ value }) => value === read.value);
    if (swap === undefined) found.push(`${read.value} was read and never written`);
    else if (swap.outcome === 'refused') found.push(`${read.value} was read and had been refused`);
    else happened(swap, read.revision);
  }

  const chain = [...writes.values()].sort((a, b) => a.revision - b.revision);
  chain.forEach(({ swap, revision }, index) => {
    const before = chain[index - 1]?.revision ?? 0;
    if (swap.expectedRevision !== before) {
      found.push(`${swap.value} at ${revision} replaced ${swap.expectedRevision}, but ${before} stood there`);
    }
  });
  for (const swap of swaps) {
    if (swap.outcome !== 'refused') continue;
    // Unless another had replaced what it expected before it returned, there was no reason to refuse.
    const winner = chain.find((write) => write.swap.expectedRevision === swap.expectedRevision);
    if (winner === undefined || winner.swap.calledAt > swap.returnedAt) {
      found.push(`${swap.value} was refused though ${swap.expectedRevision} stood there`);
    }
  }

  const points = [
    ...chain.map(({ swap, revision }) => ({ ...swap, revision })),
    ...reads.map((read) => ({ ...read })),
  ];
  for (const earlier of points) {
    for (const later of points) {
      if (earlier.returnedAt >= later.calledAt) continue;
      const isBack =
        later.type === 'read' ? later.revision < earlier.revision : later.revision <= earlier.revision;
      if (isBack)
        found.push(`${later.type} ${later.value} shows ${later.revision} after ${earlier.revision}`);
    }
  }
  return found;
}
