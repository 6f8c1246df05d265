// Before a daemon stops: its primaries give their places to copies in sync, so that nobody waits for a lease to run
// out. Where none can take over, or not in time, the volume waits for this daemon or for a failover, as after a crash.

import { setTimeout as sleep } from 'node:timers/promises';
import { errorText } from '../core/errors.ts';
import type { ClusterStorage } from '../dataplane/cluster-storage.ts';
import type { Logger } from '../observe/log.ts';

const LIMIT_MS = 3000;
/** The one that took the place has taken this copy up again by then, or does not. */
const FOLLOWS_MS = 1000;
const LOOK_INTERVAL_MS = 20;
/** Handovers at a time. */
const AT_A_TIME = 8;

type Replication = Pick<ClusterStorage, 'handOver' | 'replicaView'>;

/** Resolves when all have given it, or their time is over. Never rejects. */
export async function givePlaces(
  replication: Replication,
  volumeIds: readonly string[],
  log: Logger,
  limitMs = LIMIT_MS,
): Promise<void> {
  const deadlineMs = performance.now() + limitMs;
  const waiting = [...volumeIds];
  const giveNext = async (): Promise<void> => {
    for (let volumeId = waiting.shift(); volumeId !== undefined; volumeId = waiting.shift()) {
      try {
        const target = await givePlace(replication, volumeId, deadlineMs);
        if (target !== undefined) log.info({ volumeId, to: target }, 'gave the place of the primary away');
      } catch (error) {
        log.warn({ volumeId, reason: errorText(error) }, 'a primary could not give its place away');
      }
    }
  };
  const given = Promise.all(Array.from({ length: AT_A_TIME }, giveNext));
  await Promise.race([given, sleep(limitMs, undefined, { ref: false })]);
}

/**
 * The replica that has it now; undefined: there was nothing to give, or nobody to take it. It is given when this copy
 * follows it: one that stopped sooner would be missed for as long as a silent one.
 */
async function givePlace(
  replication: Replication,
  volumeId: string,
  deadlineMs: number,
): Promise<string | undefined> {
  let asked: string | undefined;
  let givenMs: number | undefined;
  while (performance.now() < deadlineMs) {
    const view = await replication.replicaView(volumeId);
    if (view?.state !== 'primary') {
      givenMs ??= performance.now();
      const isTakenUp = view === undefined || (view.state === 'following' && view.isActive);
      if (asked === undefined || isTakenUp || performance.now() - givenMs >= FOLLOWS_MS) return asked;
      await sleep(LOOK_INTERVAL_MS);
      continue;
    }
    const member = view.others.find(({ role, isConnected }) => role === 'member' && isConnected);
    if (member === undefined) return undefined;
    // Asked again it says no while it drains.
    if (await replication.handOver(volumeId, member.replicaId)) asked = member.replicaId;
    await sleep(LOOK_INTERVAL_MS);
  }
  return givenMs === undefined ? undefined : asked;
}
