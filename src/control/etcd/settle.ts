// What became of a swap that was not answered, read from the key's history. Asked only once the swap cannot
// happen any more: its expected revision has passed.

import type { SettledSwap, StoreEntry, UnknownSwap } from '../store.ts';
import { EtcdCallError } from './call-error.ts';
import type { WatchResponse } from './messages.ts';
import { status } from '@grpc/grpc-js';
import { nextResponse, type WatchContext } from './watch.ts';

/**
 * `current` is the key's entry now. A swap that expected a revision can only be the first change after it;
 * one that created the key may be any change since it was sent.
 */
export async function outcomeInHistory(
  { client, guard, keys }: WatchContext,
  swap: UnknownSwap,
  current: StoreEntry | undefined,
): Promise<SettledSwap> {
  const after = swap.expectedRevision > 0 ? swap.expectedRevision : swap.sentAtRevision;
  const { stream, leave } = await client.watch();
  const timer = setTimeout(() => stream.cancel(), client.timeoutMs);
  try {
    stream.write({ create_request: { key: keys.key(swap.key), start_revision: String(after + 1) } });
    const responses = stream[Symbol.asyncIterator]() as AsyncIterator<WatchResponse, undefined>;
    for (;;) {
      const response = await nextResponse(stream, responses);
      if (response === 'cut' || response === 'silent') {
        leave(response === 'silent');
        throw new EtcdCallError('unknown', status.UNAVAILABLE, `the history of ${swap.key} was cut off`);
      }
      guard.checkCluster(response.header);
      if (response.compact_revision !== '0') return { outcome: 'superseded', current };
      if (response.canceled) throw new EtcdCallError('unknown', status.UNAVAILABLE, response.cancel_reason);
      for (const { type, kv } of response.events) {
        if (kv === null || kv === undefined) continue;
        const revision = Number(kv.mod_revision);
        if (type === 'PUT' && keys.entry(kv).proposal === swap.proposal) {
          return { outcome: 'committed', revision };
        }
        if (swap.expectedRevision > 0) {
          // Deletions do not name the swap that made them.
          const mayBeOurs = type === 'DELETE' && swap.value === undefined;
          return { outcome: mayBeOurs ? 'superseded' : 'refused', current };
        }
        if (revision >= (current?.revision ?? Number.POSITIVE_INFINITY))
          return { outcome: 'refused', current };
      }
    }
  } finally {
    clearTimeout(timer);
    stream.cancel();
  }
}
