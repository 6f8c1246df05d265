// A volume's attachment: the numbered permission of one node to use it.

import type { VolumeRecord } from './records.ts';

type Attachment = VolumeRecord['attachment'];

/** The next one: everything of those before is refused from here on. `node` null: nobody may use it. */
export function withAttachment(
  record: VolumeRecord,
  node: string | null,
  { readOnly = false, use = 'device' }: Partial<Pick<Attachment, 'readOnly' | 'use'>> = {},
): VolumeRecord {
  const attachment = { number: record.attachment.number + 1, node, readOnly, use };
  return { ...record, epoch: record.epoch + 1, attachment };
}
