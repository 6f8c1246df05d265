// What a ring entry was for: the high half of its user data. The low half is the index named here.

export const TAG_RECEIVE = 1; // session
export const TAG_SEND = 2; // session
export const TAG_CLOSE = 3; // nothing left to do
export const TAG_DATA = 4; // request: its read or write of the data file
export const TAG_MERGE_READ = 5; // request: a block around an unaligned write
export const TAG_ZERO = 6; // request: fallocate
export const TAG_FLUSH = 7; // volume
export const TAG_INTENT = 8; // volume
export const TAG_GENERATION = 9; // volume: one read, write or flush of the generations file
export const TAG_ACCEPT = 10; // listener
export const TAG_WAKE = 11; // the thread
export const TAG_TICK = 12; // the thread
export const TAG_LINK_RECEIVE = 13; // link
export const TAG_LINK_SEND = 14; // link
export const TAG_LINK_CONNECT = 15; // link
export const TAG_STAMP = 16; // volume: a read of saved generations
export const TAG_PROTOCOL_TICK = 17; // the thread
export const TAG_REST = 18; // the thread: a resync's rest is over
