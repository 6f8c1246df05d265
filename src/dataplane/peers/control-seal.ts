// Control messages are sealed whole, unlike the payloads of the hot path: behind the message come 8 bytes, the seal of
// the message and of its header's seal, so that neither can be changed nor put behind another header.

import { native } from '../native.ts';
import { SEAL_BYTES } from './link-memory.ts';

export function sumOfMessage(message: Uint8Array): number {
  return native.crc32cSigned(message, 0, message.length, 0);
}

/** Room for a message to be sent: the message, its seal, and what making that takes. */
export function unsealedMessage(message: Uint8Array): Uint8Array {
  const room = new Uint8Array(message.length + 2 * SEAL_BYTES);
  room.set(message);
  return room;
}

/** `room`: of unsealedMessage(). All but its last 8 bytes are sent. `headerSealAt`: in `memory`. */
export function sealMessage(
  key: Uint8Array,
  memory: Uint8Array,
  headerSealAt: number,
  room: Uint8Array,
): Uint8Array {
  const sealAt = room.length - 2 * SEAL_BYTES;
  room.set(memory.subarray(headerSealAt, headerSealAt + SEAL_BYTES), sealAt);
  native.seal(key, room, 0, sealAt + SEAL_BYTES, 1);
  room.copyWithin(sealAt, sealAt + SEAL_BYTES);
  return room.subarray(0, sealAt + SEAL_BYTES);
}

/** `received`: the message and its seal. */
export function isMessageSealed(key: Uint8Array, headerSeal: Uint8Array, received: Uint8Array): boolean {
  const sealAt = received.length - SEAL_BYTES;
  const whole = new Uint8Array(received.length + SEAL_BYTES);
  whole.set(received.subarray(0, sealAt));
  whole.set(headerSeal, sealAt);
  whole.set(received.subarray(sealAt), sealAt + SEAL_BYTES);
  return native.isSealed(key, whole, 0, sealAt + SEAL_BYTES);
}
