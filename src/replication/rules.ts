// The rules of the protocol, each by name, so that a test can switch one off and show that the simulator
// notices. A switch sits in the production rule that it disables; production has no way to set one: the core
// takes NOTHING_BROKEN unless its creator passes something else, and only test/sim does.

export const RULES = [
  // Acknowledgement and the in-sync set
  'ackWaitsForEveryMember',
  'dropIsCommittedBeforeAck',
  'unknownProposalCounts',
  'lateOutcomeSettlesOnlyItsOwn',
  'restampAtDrop',
  'restampAtHello',
  'epochKeptBeforeAck',
  'minimumHoldsRequests',
  'failedWriteIsNotSettled',
  'failedDropsNobody',
  'refusedByAll',
  'refusalIsOfFirstSending',
  'refusedBesideLost',
  'refusedIsCopiedAgain',
  'lostMembersKeepWindows',
  'lackingSinceLoss',
  // Joining
  'joiningStreamSendsWrites',
  'unsettledIsHandedOver',
  'deltaIsCompleteBeforeJoin',
  'flushBeforeJoin',
  'answeredBeforeJoin',
  'joinEndsWithItsStream',
  'incarnationCheckedAtJoin',
  'gateFromSubmission',
  'stampsAreHandedOver',
  'stampsGoAfterCopies',
  'copyUnderRangeLock',
  'suspectsInDelta',
  'unknownStampsAreNewest',
  'joiningAppliesInOrder',
  'joiningCopyStaysSuspect',
  'outSinceIsRecorded',
  'writtenSinceItLeft',
  'writtenHasRestamped',
  'inSyncOnlyIfNamed',
  'copyCoversVolume',
  'requestsStayInside',
  // Leases and promotion
  'leaseCheckedAtReply',
  'leaseCountsFromSending',
  'leaseFromEveryMember',
  'sitOutAfterRestart',
  'waitForOwnGrant',
  'brokenLinkIsNoProof',
  'unheardDropsNobody',
  'noGrantWhilePromoting',
  'onlyMembersPromote',
  'incarnationCheckedAtPromotion',
  'everyMemberReportedBeforeRevival',
  'revivalRevokesAttachment',
  'putBackIsNoReboot',
  'oldReportIsCleared',
  'namedAncestorIsKept',
  'forcedPromotionRevokes',
  'otherLineageIsNoBase',
  // Epochs, streams, sessions
  'lowerEpochRefused',
  'promiseIsDurable',
  'lowerStreamRefused',
  'oldStreamIsVoid',
  'configNeverGoesBack',
  'oldOperationsEndFirst',
  'lowerSessionRefused',
  'oldSessionIsVoid',
  'revokedAttachmentRefused',
  'oldAttachmentSettledFirst',
  // Reconciliation
  'reconcileBeforeServing',
  'suspectsOfEveryMember',
  'reconcileStampsAlone',
  'inheritedMarksKept',
  'unknownWindowMeansHot',
  // The local copy
  'markBeforeWrite',
  'windowBeforeWrite',
  'sequencesBelongToOpening',
  'zeroesAreWrites',
  'markKeptUntilSettled',
  'flushBeforeCooling',
  'generationsBeforeCooling',
  'failedFlushIsFinal',
  'flushReachesEveryMember',
  'fuaIsFlushed',
  'overlapsInOrder',
  'readsWaitForOverlappingWrites',
  'incarnationRedrawnAfterReboot',
  'bootIdChecked',
  'bootRecordedBeforeAck',
  'cleanMarkErasedFirst',
  'lockOutlivesOperations',
  // Handover
  'drainBeforeHandover',
  'renounceBeforeHandover',
  // Frontend
  'frontendHoldsOverlaps',
  'frontendIgnoresOldSessions',
  'frontendReplays',
  'frontendNeverGoesBack',
] as const;

export type Rule = (typeof RULES)[number];
export type BrokenRules = Readonly<Record<Rule, boolean>>;

export function breaking(...broken: readonly Rule[]): BrokenRules {
  const rules = Object.fromEntries(RULES.map((rule) => [rule, broken.includes(rule)]));
  return Object.freeze(rules) as BrokenRules;
}

export const NOTHING_BROKEN: BrokenRules = breaking();
