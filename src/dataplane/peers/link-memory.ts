// How a link divides its part of the thread's memory (thread-memory.ts), and what a frame's header is on a link: the
// header of wire.ts, then its seal.

import { HEADER_BYTES } from '../../replication/wire.ts';
import { LINK_BYTES, MESSAGE_BYTES, RECEIVE_BYTES } from '../thread-memory.ts';
import { invariant } from '../../core/invariant.ts';

export const SEAL_BYTES = 8;
export const SEALED_HEADER_BYTES = HEADER_BYTES + SEAL_BYTES;

/** Frames that wait to be sent, a power of two: several times what a primary leaves unanswered. */
export const SEND_QUEUE_FRAMES = 2048;
/** Pieces of control messages, and what is said before there are frames. */
export const STAGING_BYTES = 16 * 1024;

export const LINK_RECEIVE_AT = 0;
export const VECTOR_AT = LINK_RECEIVE_AT + RECEIVE_BYTES;
export const STAGING_AT = VECTOR_AT + MESSAGE_BYTES;
export const HEADERS_AT = STAGING_AT + STAGING_BYTES;

invariant(HEADERS_AT + SEND_QUEUE_FRAMES * SEALED_HEADER_BYTES <= LINK_BYTES, 'a link fits its memory');
