// Who is told to begin anew when a set that went down as a whole is revived.

import { describe, expect, test } from 'vitest';
import { type RebootReport, reviveAfterReboot, type VolumeConfig } from '../../src/replication/config.ts';

/** Copies on the nodes a and b; the volume is used on b. */
function revived(reportOfB: RebootReport, changes: Partial<VolumeConfig> = {}): VolumeConfig['attachment'] {
  const common = { outSince: null, needsFullCopy: false, bootId: 'boot' };
  const reportOfA = { incarnation: 'a, second boot', descendsFrom: 'a' };
  const config: VolumeConfig = {
    volumeId: 'v',
    sizeBytes: 8192,
    lineage: 'l',
    epoch: 7,
    primary: { replicaId: 'a', opening: 'o' },
    inSync: ['a', 'b'].map((id) => ({ replicaId: id, incarnation: id })),
    replicas: [
      { ...common, id: 'a', node: 'a', report: reportOfA },
      { ...common, id: 'b', node: 'b', report: reportOfB },
    ],
    attachment: { number: 3, node: 'b' },
    durability: 'writeback',
    failureMode: 'soft',
    ...changes,
  };
  const by = { replicaId: 'a', incarnation: reportOfA.incarnation, opening: 'p', bootId: 'boot' };
  return reviveAfterReboot(config, by).attachment;
}

const REBOOTED = { incarnation: 'b, second boot', descendsFrom: 'b' };
/** The disk of before, put in again within one boot: it descends from an incarnation that is not named any more. */
const EXCHANGED = { incarnation: 'b, before', descendsFrom: 'b, before that' };
const PUT_BACK = { incarnation: 'b, from an image', descendsFrom: null };

describe('the attachment of a revived volume', () => {
  test('stays where the user went down with a member', () => {
    expect(revived(REBOOTED)).toEqual({ number: 3, node: 'b' });
  });

  test('is revoked where only another image was put in the place of the copy: its user lives', () => {
    expect(revived(PUT_BACK)).toEqual({ number: 4, node: 'b' });
  });

  test('is revoked where the disk was exchanged and is back: that says nothing of the machine', () => {
    expect(revived(EXCHANGED)).toEqual({ number: 4, node: 'b' });
  });

  test('is revoked where the user is on no node of a member', () => {
    expect(revived(REBOOTED, { attachment: { number: 3, node: 'c' } })).toEqual({ number: 4, node: 'c' });
  });

  test('stays in writethrough, where nothing is lost', () => {
    expect(revived(PUT_BACK, { durability: 'writethrough' })).toEqual({ number: 3, node: 'b' });
  });
});
