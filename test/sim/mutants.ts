// The proof that the simulator can fail: every rule of the protocol, switched off, is a planted fault that has to be
// noticed, by the checker that should notice it, within 5,000 seeds or 30 seconds of one core.
//
// A fault that a second rule covers as well is planted together with that one switched off (`unmasked`); what the
// mask alone does is the mask's own entry.

import { breaking, type Rule } from '../../src/replication/rules.ts';
import { type MixName, mixedShape } from './mixes.ts';
import { runSeed } from './run.ts';
import type { Checker } from './world.ts';

export interface Mutant {
  /** For people: what goes wrong. */
  readonly fault: string;
  /** Any of these should notice. */
  readonly checkers: readonly Checker[];
  /** Tried in turn. */
  readonly mixes: readonly MixName[];
  /** Rules that would cover the fault, switched off as well. */
  readonly unmasked?: readonly Rule[];
  /** Why nothing catches it so far. */
  readonly open?: string;
}

/** By rule: the seed that caught it last. */
export type Known = Partial<Record<Rule, { readonly mix: MixName; readonly seed: number }>>;
export const KNOWN_FILE = new URL('mutants.json', import.meta.url);

const ACKNOWLEDGED: readonly Checker[] = ['acknowledged', 'history'];
const UNEQUAL: readonly Checker[] = ['coverage', 'equality', 'acknowledged', 'history'];
const INCOMPLETE: readonly Checker[] = ['delta', 'coverage', 'equality', 'acknowledged', 'history'];
const TWO_SERVE: readonly Checker[] = ['oneServes', 'accepted', 'acknowledged', 'history'];
const PROMISED: readonly Checker[] = ['promise', 'oneServes'];

function fault(
  text: string,
  checkers: readonly Checker[],
  mixes: readonly MixName[],
  ...unmasked: readonly Rule[]
): Mutant {
  return { fault: text, checkers, mixes, unmasked };
}

/** Not caught yet, or not at all while a second line holds: said openly in the table. */
function uncaught(text: string, open: string): Mutant {
  return { fault: text, checkers: UNEQUAL, mixes: ['any'], open };
}

export const MUTANTS: Readonly<Record<Rule, Mutant>> = {
  // Acknowledgement and the in-sync set
  ackWaitsForEveryMember: fault('acknowledges when its own copy is written', ACKNOWLEDGED, ['kills']),
  dropIsCommittedBeforeAck: fault(
    'acknowledges without a member while its removal is on its way',
    ['acknowledged'],
    ['slowStore'],
  ),
  unknownProposalCounts: fault('takes a swap without an answer for a failed one', ACKNOWLEDGED, ['store']),
  lateOutcomeSettlesOnlyItsOwn: uncaught(
    'takes a late outcome for that of the next proposal',
    'found before, too rare in the mixes so far',
  ),
  restampAtDrop: fault(
    'does not stamp writes in flight anew when a member leaves',
    ['delta'],
    ['resync', 'stalls'],
  ),
  restampAtHello: fault(
    'the same, where a follower learns of it by a new stream',
    ['delta'],
    ['sessions', 'resync'],
  ),
  epochKeptBeforeAck: fault(
    'replies before the members’ promises of its epoch are durable',
    ['promise'],
    ['power'],
  ),
  minimumHoldsRequests: fault(
    'serves with fewer copies than the failure mode asks',
    ['acknowledged'],
    ['power'],
  ),
  failedWriteIsNotSettled: fault('settles a write that failed on its own disk', UNEQUAL, ['disks']),
  failedDropsNobody: fault('drops the good copies although its own has failed', ['invariant'], ['failing']),
  lostMembersKeepWindows: fault(
    'clears the windows of what a lost, still named member lacks',
    ['coverage'],
    ['lost'],
  ),
  lackingSinceLoss: uncaught(
    'counts a lost member’s delta from the epoch that drops it',
    'found before, too rare in the mixes so far',
  ),
  // Joining
  joiningStreamSendsWrites: fault('sends no new writes to a joining copy', UNEQUAL, ['resync', 'stalls']),
  deltaIsCompleteBeforeJoin: fault('lets a copy join before its delta is copied', UNEQUAL, [
    'resync',
    'stalls',
  ]),
  flushBeforeJoin: fault('lets a copy join before it has flushed', ['acknowledged'], ['resync', 'disks']),
  answeredBeforeJoin: fault('lets a copy join before it answered what was sent', UNEQUAL, ['resync']),
  joinEndsWithItsStream: uncaught(
    'remembers across streams that a copy had caught up',
    'a new stream asks for everything again; no mix gets between',
  ),
  incarnationCheckedAtJoin: fault(
    'takes a member back in another incarnation',
    ['invariant'],
    ['power', 'cooling'],
  ),
  gateFromSubmission: fault('waits for a joining copy only from the commit on', UNEQUAL, ['resync', 'disks']),
  stampsAreHandedOver: fault('gives a joining copy no generations', ['delta'], ['resync', 'handover']),
  stampsGoAfterCopies: fault(
    'gives a joining copy generations from before the last drop',
    ['delta'],
    ['newcomers', 'resync'],
  ),
  copyUnderRangeLock: fault('copies during resync without the range lock', UNEQUAL, ['resync', 'disks']),
  suspectsInDelta: fault('ignores the suspects of a returning copy', UNEQUAL, ['cooling', 'power']),
  unknownStampsAreNewest: fault('takes lost generations for old ones', INCOMPLETE, ['kills', 'resync']),
  joiningAppliesInOrder: fault('applies overlapping writes of a stream in any order', UNEQUAL, [
    'power',
    'stalls',
  ]),
  joiningCopyStaysSuspect: uncaught(
    'forgets what it took while it was joining',
    'needs a copy that joins while a member is given up, cools, and meets that member as its primary: no mix is made for it yet',
  ),
  outSinceIsRecorded: fault('counts a delta from the epoch after the one that dropped it', UNEQUAL, [
    'resync',
  ]),
  inSyncOnlyIfNamed: fault(
    'notes itself in sync in an incarnation that nobody named',
    ['promise'],
    ['power', 'lost'],
  ),
  copyCoversVolume: fault(
    'lets a copy take part that has not grown with the volume',
    ['order', 'acknowledged', ...INCOMPLETE],
    ['growth'],
  ),
  requestsStayInside: fault(
    'serves what lies beyond the size that it knows',
    ['invariant', ...INCOMPLETE],
    ['growth'],
  ),
  // Leases and promotion
  leaseCheckedAtReply: fault('replies without looking at its leases', TWO_SERVE, ['stalls']),
  leaseCountsFromSending: uncaught(
    'counts a grant from its arrival',
    'found before, too rare in the mixes so far',
  ),
  leaseFromEveryMember: fault('is content with one member’s grant', TWO_SERVE, ['leases', 'stalls']),
  sitOutAfterRestart: uncaught(
    'promotes after a restart without sitting out a lease',
    'found before, too rare in the mixes so far',
  ),
  waitForOwnGrant: fault('promotes before its own grant has run out', TWO_SERVE, ['leases', 'stalls']),
  brokenLinkIsNoProof: fault('takes a closed connection for death', TWO_SERVE, ['sessions']),
  noGrantWhilePromoting: uncaught(
    'answers the old primary while its promotion is on its way',
    'found before, too rare in the mixes so far',
  ),
  onlyMembersPromote: fault('promotes without being a member', TWO_SERVE, ['stalls', 'resync']),
  incarnationCheckedAtPromotion: fault('promotes in another incarnation', ACKNOWLEDGED, ['power', 'cooling']),
  everyMemberReportedBeforeRevival: fault('revives before every member reported', TWO_SERVE, ['power']),
  revivalRevokesAttachment: fault('revives and lets the attachment go on', ['history'], ['power']),
  forcedPromotionRevokes: fault('forces a promotion and lets the attachment go on', ['history'], ['forced']),
  otherLineageIsNoBase: fault('fills a copy of another lineage as if it had held nothing', INCOMPLETE, [
    'forced',
  ]),
  bootRecordedBeforeAck: fault('acknowledges in a boot that the store does not know', ['promise'], ['power']),
  // Epochs, streams, sessions
  lowerEpochRefused: fault('follows a primary of a lower epoch', ['order', ...UNEQUAL], ['leases', 'stalls']),
  promiseIsDurable: fault('answers before its promise is durable', PROMISED, ['kills']),
  lowerStreamRefused: uncaught('follows an older stream again', 'links keep Hellos of one primary in order'),
  oldStreamIsVoid: uncaught(
    'applies what an older stream still brings',
    'a follower closes the old link first, and nothing newer overtakes what it still brings',
  ),
  configNeverGoesBack: fault(
    'believes an older configuration than it knew',
    ['invariant', ...UNEQUAL],
    ['store'],
  ),
  oldOperationsEndFirst: fault(
    'answers a new stream while disk writes of the old one run',
    ['order'],
    ['sessions', 'disks'],
  ),
  lowerSessionRefused: uncaught(
    'serves an older session of a frontend',
    'links keep Hellos of one frontend in order',
  ),
  oldSessionIsVoid: uncaught(
    'takes requests of a session that is over',
    'a session without requests is forgotten when it closes',
  ),
  revokedAttachmentRefused: fault('goes on with an attachment that was revoked', ['history'], ['moves']),
  oldAttachmentSettledFirst: uncaught(
    'welcomes the next attachment too early',
    'the range locks order the old attachment’s writes before the new one’s',
  ),
  // Reconciliation
  reconcileBeforeServing: fault('serves after a promotion without reconciling', UNEQUAL, ['kills']),
  suspectsOfEveryMember: fault('reconciles its own suspects only', UNEQUAL, ['kills']),
  reconcileStampsAlone: uncaught(
    'does not stamp suspects when no other copy remains',
    'was caught before copies kept all that they took while joining suspect, which covers most of it',
  ),
  inheritedMarksKept: fault('forgets what the process before it had in flight', UNEQUAL, ['kills']),
  unknownWindowMeansHot: uncaught(
    'takes an unreadable window for an empty one',
    'a returning copy is filled by its marks as long as its incarnation is new',
  ),
  // The local copy
  markBeforeWrite: fault('writes before the mark is durable', ['marks'], ['kills']),
  windowBeforeWrite: fault('keeps no window', ['coverage'], ['kills']),
  sequencesBelongToOpening: fault(
    'mixes the sequences of two openings',
    ['coverage', 'invariant'],
    ['handover'],
  ),
  zeroesAreWrites: fault('keeps no window and no stamp of a zeroing', ['coverage', 'delta'], ['zeroes']),
  markKeptUntilSettled: fault(
    'clears a mark before the write is everywhere',
    ['coverage', 'invariant'],
    ['held'],
  ),
  flushBeforeCooling: fault('clears a mark before the data is flushed', INCOMPLETE, ['cooling']),
  generationsBeforeCooling: fault('clears a mark before the generations are durable', INCOMPLETE, [
    'cooling',
  ]),
  failedFlushIsFinal: fault(
    'believes the flush after one that failed',
    ['acknowledged', ...UNEQUAL],
    ['disks'],
  ),
  flushReachesEveryMember: fault('flushes its own copy only', ['acknowledged'], ['power']),
  fuaIsFlushed: fault('ignores FUA', ['acknowledged'], ['disks']),
  overlapsInOrder: fault('lets overlapping requests run side by side', UNEQUAL, ['kills']),
  readsWaitForOverlappingWrites: uncaught(
    'reads what may still be lost',
    'frontends send no overlapping requests; with that rule off as well, acknowledged notices first',
  ),
  incarnationRedrawnAfterReboot: fault('keeps its incarnation after a power cut', UNEQUAL, ['power']),
  bootIdChecked: uncaught(
    'does not notice an image of an older boot',
    'the simulator puts no old images of disks back at random',
  ),
  cleanMarkErasedFirst: fault('leaves its clean mark standing while it serves', UNEQUAL, ['stops']),
  lockOutlivesOperations: uncaught(
    'a successor starts while disk writes of a killed process land',
    'the successor takes over long after a killed process’s writes have landed',
  ),
  // Handover
  drainBeforeHandover: uncaught(
    'hands over with requests in flight',
    'a handover with requests in flight is settled as a promotion is',
  ),
  renounceBeforeHandover: fault('replies after it has offered its place', TWO_SERVE, ['handover']),
  // Frontend
  frontendHoldsOverlaps: fault('sends a request that overlaps an unanswered one', ACKNOWLEDGED, ['sessions']),
  frontendIgnoresOldSessions: uncaught(
    'takes a reply of an older session',
    'a primary sends nothing on a session that is over, and requests keep their slots',
  ),
  frontendReplays: fault('drops its unanswered requests at a change of the primary', ['history'], ['kills']),
  frontendNeverGoesBack: uncaught(
    'goes back to a primary of a lower epoch',
    'leases keep a primary of a lower epoch from answering',
  ),
};

export interface Catch {
  readonly mix: MixName;
  readonly seed: number;
  readonly checker: Checker;
  readonly message: string;
}

export interface Hunt {
  readonly seeds: number;
  readonly seconds: number;
  readonly caught: Catch | undefined;
  /** What else noticed on the way, and how often. */
  readonly others: ReadonlyMap<Checker, number>;
}

export interface Budget {
  readonly seeds: number;
  /** Of one core. */
  readonly seconds: number;
}

export const BUDGET: Budget = { seeds: 5000, seconds: 30 };

export function rulesOf(rule: Rule): readonly Rule[] {
  return [rule, ...(MUTANTS[rule].unmasked ?? [])];
}

/** One seed: what was caught, if it was by a checker of that fault. */
export function trySeed(rule: Rule, mix: MixName, seed: number): Catch | undefined {
  const { violation } = runSeed(seed, breaking(...rulesOf(rule)), false, mixedShape(mix, seed));
  if (violation === undefined) return undefined;
  return { mix, seed, checker: violation.checker, message: violation.message };
}

export function hunt(rule: Rule, firstSeed: number, budget: Budget = BUDGET): Hunt {
  const { mixes, checkers } = MUTANTS[rule];
  const cpu = process.cpuUsage();
  const seconds = (): number => {
    const { user, system } = process.cpuUsage(cpu);
    return (user + system) / 1e6;
  };
  const others = new Map<Checker, number>();
  let count = 0;
  for (; count < budget.seeds && seconds() < budget.seconds; count++) {
    const caught = trySeed(rule, mixes[count % mixes.length] as MixName, firstSeed + count);
    if (caught === undefined) continue;
    if (checkers.includes(caught.checker)) return { seeds: count + 1, seconds: seconds(), caught, others };
    others.set(caught.checker, (others.get(caught.checker) ?? 0) + 1);
  }
  return { seeds: count, seconds: seconds(), caught: undefined, others };
}

/** The intact core on the same seeds and mixes. */
export function intact(mixes: readonly MixName[], firstSeed: number, count: number): Catch[] {
  const found: Catch[] = [];
  for (let at = 0; at < count; at++) {
    const mix = mixes[at % mixes.length] as MixName;
    const { violation } = runSeed(firstSeed + at, undefined, false, mixedShape(mix, firstSeed + at));
    if (violation !== undefined)
      found.push({ mix, seed: firstSeed + at, checker: violation.checker, message: violation.message });
  }
  return found;
}
