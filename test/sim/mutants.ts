// The proof that the simulator can fail: every rule of the protocol, switched off, is a planted fault that has to be
// noticed, by the checker that should notice it, within 5,000 seeds or 30 seconds of one core, or in a scenario made for it.
//
// A fault that a second rule covers as well is planted with that one switched off too, its mask. Then the masks alone
// have to pass the same budget in the same mixes, and the very seed that shows the fault: it is the rule under test
// that makes the difference.

import { breaking, type Rule } from '../../src/replication/rules.ts';
import { type MixName, mixedShape } from './mixes.ts';
import { runSeed } from './run.ts';
import { playFile, scenarioFiles } from './scenario.ts';
import { type Checker, Violation } from './world.ts';

export interface Mutant {
  /** For people: what goes wrong. */
  readonly fault: string;
  /** Any of these should notice. */
  readonly checkers: readonly Checker[];
  /** Tried in turn. */
  readonly mixes: readonly MixName[];
  /** Instead of mixes: the beginning of the name of the one file that shows it. */
  readonly scenario?: string;
  /** Rules that would cover the fault, switched off as well. */
  readonly masks: readonly Rule[];
}

export interface Seed {
  readonly mix: MixName;
  readonly seed: number;
}

/** By rule: the seed that caught it last. */
export type Known = Partial<Record<Rule, Seed>>;
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
  ...masks: readonly Rule[]
): Mutant {
  return { fault: text, checkers, mixes, masks };
}

/** So rare that it has a scenario instead of a mix. */
function told(
  text: string,
  checkers: readonly Checker[],
  scenario: string,
  ...masks: readonly Rule[]
): Mutant {
  return { fault: text, checkers, mixes: [], scenario, masks };
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
  lateOutcomeSettlesOnlyItsOwn: fault(
    'takes a late outcome for that of the next proposal',
    [...ACKNOWLEDGED, 'oneServes'],
    ['lateStore'],
  ),
  restampAtDrop: fault(
    'does not stamp writes in flight anew when a member leaves',
    ['delta'],
    ['resync', 'stalls'],
  ),
  restampAtHello: told('the same, where a follower learns of it by a new stream', INCOMPLETE, '09b'),
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
  refusedByAll: fault('answers that there is no room although some copy has the write', UNEQUAL, ['full']),
  refusalIsOfFirstSending: fault(
    'says that nothing of a write was written when an earlier sending of it may have been',
    UNEQUAL,
    ['full'],
  ),
  refusedBesideLost: fault(
    'holds a write that every copy refused, and its range, as long as a lost member is named',
    ['liveness'],
    ['full'],
  ),
  refusedIsCopiedAgain: fault(
    'leaves to a copy that is being filled what all others have refused',
    INCOMPLETE,
    ['full'],
  ),
  lostMembersKeepWindows: fault(
    'clears the windows of what a lost, still named member lacks',
    ['coverage'],
    ['lost'],
  ),
  lackingSinceLoss: fault(
    'counts a lost member’s delta from the epoch that drops it',
    ['delta'],
    ['givenUp'],
    'lostMembersKeepWindows',
  ),
  // Joining
  joiningStreamSendsWrites: fault('sends no new writes to a joining copy', UNEQUAL, ['resync', 'stalls']),
  unsettledIsHandedOver: fault(
    'fills a copy without telling it what is not settled',
    ['coverage', 'equality'],
    ['replaced'],
  ),
  deltaIsCompleteBeforeJoin: fault('lets a copy join before its delta is copied', UNEQUAL, [
    'resync',
    'stalls',
  ]),
  flushBeforeJoin: fault('lets a copy join before it has flushed', ['acknowledged'], ['resync', 'disks']),
  answeredBeforeJoin: fault('lets a copy join before it answered what was sent', UNEQUAL, ['resync']),
  joinEndsWithItsStream: told(
    'waits for a copy that had caught up and is gone, although the store refused to name it',
    ['liveness'],
    '46b',
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
    ['newcomers'],
    'unsettledIsHandedOver',
  ),
  copyUnderRangeLock: fault('copies during resync without the range lock', UNEQUAL, ['resync', 'disks']),
  suspectsInDelta: fault('ignores the suspects of a returning copy', UNEQUAL, ['cooling', 'power']),
  unknownStampsAreNewest: fault('takes lost generations for old ones', INCOMPLETE, ['kills', 'resync']),
  joiningAppliesInOrder: fault('applies overlapping writes of a stream in any order', UNEQUAL, [
    'power',
    'stalls',
  ]),
  joiningCopyStaysSuspect: told(
    'forgets what it took while it was joining',
    ['coverage', 'equality'],
    '66b',
    'unsettledIsHandedOver',
  ),
  outSinceIsRecorded: fault('counts a delta from the epoch after the one that dropped it', UNEQUAL, [
    'resync',
  ]),
  writtenSinceItLeft: fault(
    'takes blocks noted by an opening that began later for all that a copy lacks',
    UNEQUAL,
    ['absences'],
  ),
  writtenHasRestamped: fault(
    'does not note the blocks of writes that were in flight when a member left',
    UNEQUAL,
    ['absences'],
  ),
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
  leaseCountsFromSending: fault('counts a grant from its arrival', TWO_SERVE, ['woken']),
  leaseFromEveryMember: fault('is content with one member’s grant', TWO_SERVE, ['leases', 'stalls']),
  sitOutAfterRestart: fault('promotes after a restart without sitting out a lease', TWO_SERVE, ['reboots']),
  waitForOwnGrant: fault('promotes before its own grant has run out', TWO_SERVE, ['leases', 'stalls']),
  unheardDropsNobody: told(
    'drops the members that it does not hear although no client hears it either',
    ['liveness'],
    '16b',
  ),
  brokenLinkIsNoProof: fault('takes a closed connection for death', TWO_SERVE, ['sessions']),
  noGrantWhilePromoting: fault('answers the old primary while its promotion is on its way', TWO_SERVE, [
    'promoting',
  ]),
  onlyMembersPromote: fault('promotes without being a member', TWO_SERVE, ['stalls', 'resync']),
  incarnationCheckedAtPromotion: fault('promotes in another incarnation', ACKNOWLEDGED, ['power', 'cooling']),
  everyMemberReportedBeforeRevival: fault('revives before every member reported', TWO_SERVE, ['power']),
  revivalRevokesAttachment: fault('revives and lets the attachment go on', ['history'], ['power']),
  putBackIsNoReboot: told(
    'takes the user of a member whose image was put back for one that was rebooted',
    ACKNOWLEDGED,
    '12d',
  ),
  oldReportIsCleared: told(
    'lets stand what a copy reported before its own disk was back',
    ACKNOWLEDGED,
    '51b',
  ),
  namedAncestorIsKept: told(
    'forgets the named incarnation that a copy descends from after some reboots',
    ['liveness'],
    '12f',
  ),
  forcedPromotionRevokes: fault('forces a promotion and lets the attachment go on', ['history'], ['forced']),
  otherLineageIsNoBase: fault('fills a copy of another lineage as if it had held nothing', INCOMPLETE, [
    'forced',
  ]),
  bootRecordedBeforeAck: fault('acknowledges in a boot that the store does not know', ['promise'], ['power']),
  // Epochs, streams, sessions
  lowerEpochRefused: fault('follows a primary of a lower epoch', ['order', ...UNEQUAL], ['leases', 'stalls']),
  promiseIsDurable: fault('answers before its promise is durable', PROMISED, ['kills']),
  lowerStreamRefused: fault('follows an older stream again', ['order', ...UNEQUAL], ['overtaken']),
  oldStreamIsVoid: fault('applies what an older stream still brings', UNEQUAL, ['overtaken']),
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
  lowerSessionRefused: fault('serves an older session of a frontend', ['order', 'history'], ['overtaken']),
  oldSessionIsVoid: fault('takes requests of a session that is over', ACKNOWLEDGED, ['ghosts']),
  revokedAttachmentRefused: fault('goes on with an attachment that was revoked', ['history'], ['moves']),
  oldAttachmentSettledFirst: fault(
    'welcomes the next attachment too early',
    ['history'],
    ['calmMoves'],
    'readsWaitForOverlappingWrites',
  ),
  // Reconciliation
  reconcileBeforeServing: fault('serves after a promotion without reconciling', UNEQUAL, ['kills']),
  suspectsOfEveryMember: fault('reconciles its own suspects only', UNEQUAL, ['kills']),
  reconcileStampsAlone: fault('does not stamp suspects when no other copy remains', ['delta'], ['unheard']),
  inheritedMarksKept: fault('forgets what the process before it had in flight', UNEQUAL, ['kills']),
  unknownWindowMeansHot: fault('takes an unreadable window for an empty one', UNEQUAL, ['writethrough']),
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
  readsWaitForOverlappingWrites: fault(
    'reads what may still be lost',
    ['history'],
    ['calmMoves'],
    'oldAttachmentSettledFirst',
  ),
  incarnationRedrawnAfterReboot: fault('keeps its incarnation after a power cut', UNEQUAL, ['power']),
  bootIdChecked: fault('does not notice an image of an older boot', INCOMPLETE, ['images']),
  cleanMarkErasedFirst: fault('leaves its clean mark standing while it serves', UNEQUAL, ['stops']),
  lockOutlivesOperations: fault('a successor starts while disk writes of a killed process land', UNEQUAL, [
    'landing',
  ]),
  // Handover
  drainBeforeHandover: fault(
    'hands over with requests in flight',
    UNEQUAL,
    ['calmHandover'],
    'reconcileBeforeServing',
  ),
  renounceBeforeHandover: fault('replies after it has offered its place', TWO_SERVE, ['handover']),
  // Frontend
  frontendHoldsOverlaps: fault('sends a request that overlaps an unanswered one', ACKNOWLEDGED, ['sessions']),
  frontendIgnoresOldSessions: fault('takes a reply of an older session', ACKNOWLEDGED, ['overtaken']),
  frontendReplays: fault('drops its unanswered requests at a change of the primary', ['history'], ['kills']),
  frontendNeverGoesBack: fault(
    'goes back to a primary of a lower epoch',
    ['order', 'history'],
    ['oldStates'],
  ),
};

export interface Catch {
  readonly at: Seed | { readonly scenario: string };
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

/** One seed without these rules: what was caught. */
function runWithout(rules: readonly Rule[], mix: MixName, seed: number): Catch | undefined {
  const { violation } = runSeed(seed, breaking(...rules), false, mixedShape(mix, seed));
  if (violation === undefined) return undefined;
  return { at: { mix, seed }, checker: violation.checker, message: violation.message };
}

/** One scenario without these rules: what was caught. A step that is not reached is a volume that does not serve. */
function playWithout(rules: readonly Rule[], scenario: string): Catch | undefined {
  const [file, ...others] = scenarioFiles().filter(({ name }) => name.startsWith(`${scenario}-`));
  if (file === undefined || others.length > 0)
    throw new Error(`the scenario '${scenario}' is not one file: look at the mutant that names it`);
  try {
    const missed = /^.*NOT REACHED.*$/m.exec(playFile(file, breaking(...rules)))?.[0];
    return missed === undefined ? undefined : { at: { scenario }, checker: 'liveness', message: missed };
  } catch (error) {
    if (!(error instanceof Violation)) throw error;
    return { at: { scenario }, checker: error.checker, message: error.message };
  }
}

/** One seed: what was caught. Of a masked fault only what the masks alone do not show. */
export function trySeed(rule: Rule, { mix, seed }: Seed): Catch | undefined {
  const { masks } = MUTANTS[rule];
  const caught = runWithout([rule, ...masks], mix, seed);
  const isOfMask = caught !== undefined && masks.length > 0 && runWithout(masks, mix, seed) !== undefined;
  return isOfMask ? undefined : caught;
}

/** The first of these seeds, or the scenario, in which the masks alone are caught by anything. */
export function masksAlone(rule: Rule, firstSeed: number, budget: Budget): Catch | undefined {
  const { mixes, scenario, masks } = MUTANTS[rule];
  if (scenario !== undefined) return playWithout(masks, scenario);
  const seconds = stopwatch();
  for (let count = 0; count < budget.seeds && seconds() < budget.seconds; count++) {
    const caught = runWithout(masks, mixes[count % mixes.length] as MixName, firstSeed + count);
    if (caught !== undefined) return caught;
  }
  return undefined;
}

/** Of one core. */
function stopwatch(): () => number {
  const cpu = process.cpuUsage();
  return () => {
    const { user, system } = process.cpuUsage(cpu);
    return (user + system) / 1e6;
  };
}

export function hunt(rule: Rule, firstSeed: number, budget: Budget = BUDGET): Hunt {
  const { mixes, checkers, scenario, masks } = MUTANTS[rule];
  const seconds = stopwatch();
  const others = new Map<Checker, number>();
  let count = 0;
  const attempts = scenario === undefined ? budget.seeds : 1;
  for (; count < attempts && seconds() < budget.seconds; count++) {
    const caught =
      scenario === undefined
        ? trySeed(rule, { mix: mixes[count % mixes.length] as MixName, seed: firstSeed + count })
        : playWithout([rule, ...masks], scenario);
    if (caught === undefined) continue;
    if (checkers.includes(caught.checker)) return { seeds: count + 1, seconds: seconds(), caught, others };
    others.set(caught.checker, (others.get(caught.checker) ?? 0) + 1);
  }
  return { seeds: count, seconds: seconds(), caught: undefined, others };
}

/** For people. */
export function whereOf({ at }: Catch): string {
  return 'mix' in at ? `mix ${at.mix} seed ${at.seed}` : `scenario ${at.scenario}`;
}

/** The intact core on the same seeds and mixes. */
export function intact(mixes: readonly MixName[], firstSeed: number, count: number): Catch[] {
  const found: Catch[] = [];
  for (let at = 0; at < count; at++) {
    const caught = runWithout([], mixes[at % mixes.length] as MixName, firstSeed + at);
    if (caught !== undefined) found.push(caught);
  }
  return found;
}
