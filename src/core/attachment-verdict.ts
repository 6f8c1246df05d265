// What is known of an attachment whose device or mount was found after a restart.
//
// Only 'over' allows taking anything away, and it needs proof; 'current' goes on; with 'unknown' (the record is
// lost, unreadable, or older than the device) everything stays as it is, until a person or a better store tells.

export type AttachmentVerdict = 'current' | 'over' | 'unknown';

export type JudgeAttachment = (volumeId: string, attachmentNumber: number) => Promise<AttachmentVerdict>;
