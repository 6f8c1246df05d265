// Both ends prove that they hold the cluster's key before anything else is read or said (ADR 0006):
//
//   initiator → acceptor   greeting: "HFpeer", newest and oldest version of this handshake, nonce of 32 bytes
//   acceptor → initiator   greeting
//   initiator → acceptor   HMAC-SHA256(proof key, "initiator" ‖ transcript)
//   acceptor → initiator   HMAC-SHA256(proof key, "acceptor" ‖ transcript)
//
// The transcript is SHA-256 of both greetings, the proof key comes from the cluster's key and id by HKDF. Who does
// not hold the key gets a greeting and nothing else: no name, no reason. The two keys of the connection, one a
// direction, come from the transcript as well: what was said on another connection is of no use. So do the versions: both
// ends go by the newest that both know, and whoever changes a greeting on its way ends the connection.

import { createHash, createHmac, hkdfSync, randomBytes, timingSafeEqual } from 'node:crypto';
import { HoldfastError } from '../../core/errors.ts';
import { chooseVersion, tooFarApart, type VersionRange } from '../../replication/wire.ts';

const MIN_KEY_BYTES = 32;
const MAGIC = Buffer.from('HFpeer', 'latin1');
/** What this program speaks; the bytes up to the nonce keep their meaning in every version. */
export const HANDSHAKE_VERSIONS: VersionRange = { min: 1, max: 1 };
const NEWEST_AT = 6;
const OLDEST_AT = 7;
const NONCE_AT = 8;
export const GREETING_BYTES = NONCE_AT + 32;
const PROOF_BYTES = 32;
const LINK_KEY_BYTES = 16;

/** What a cluster's daemons share. */
export class ClusterKey {
  readonly #proofKey: Buffer;

  constructor(key: Uint8Array, clusterId: string) {
    if (key.length < MIN_KEY_BYTES) {
      throw new HoldfastError('INVALID', `a cluster key has ${MIN_KEY_BYTES} bytes or more: make one anew`);
    }
    this.#proofKey = Buffer.from(hkdfSync('sha256', key, clusterId, 'holdfast peers 1', 32));
  }

  sum(purpose: string, transcript: Uint8Array): Buffer {
    return createHmac('sha256', this.#proofKey).update(purpose).update('\0').update(transcript).digest();
  }
}

export interface LinkKeys {
  readonly sendKey: Uint8Array;
  readonly receiveKey: Uint8Array;
}

export class Handshake {
  /** Bytes of the other end to hand to take() next. */
  wantedBytes = GREETING_BYTES;
  /** Once both have proven it. */
  keys: LinkKeys | undefined;
  /** Why take() took nothing. */
  problem = 'it does not prove that it holds the key of this cluster';
  /** What the other end is told all the same, so that its log says why. */
  lastWords: Uint8Array | undefined;
  readonly #clusterKey: ClusterKey;
  readonly #isInitiator: boolean;
  readonly greeting: Uint8Array = Buffer.concat([
    MAGIC,
    Buffer.from([HANDSHAKE_VERSIONS.max, HANDSHAKE_VERSIONS.min]),
    randomBytes(32),
  ]);
  #transcript: Buffer | undefined;

  constructor(clusterKey: ClusterKey, isInitiator: boolean) {
    this.#clusterKey = clusterKey;
    this.#isInitiator = isInitiator;
  }

  /** What to answer, perhaps nothing; undefined: the other end is not one of ours. An initiator says `greeting` first. */
  take(bytes: Uint8Array): Uint8Array | undefined {
    if (this.#transcript === undefined) return this.#greeted(bytes);
    const isProven = timingSafeEqual(bytes, this.#proof(!this.#isInitiator, this.#transcript));
    if (!isProven) return undefined;
    this.keys = this.#linkKeys(this.#transcript);
    return this.#isInitiator ? new Uint8Array() : this.#proof(false, this.#transcript);
  }

  #greeted(greeting: Uint8Array): Uint8Array | undefined {
    if (!MAGIC.equals(greeting.subarray(0, MAGIC.length))) return undefined;
    const theirs = { min: greeting[OLDEST_AT] ?? 0, max: greeting[NEWEST_AT] ?? 0 };
    if (chooseVersion(HANDSHAKE_VERSIONS, theirs) === undefined) {
      this.problem = tooFarApart('the handshake between daemons', HANDSHAKE_VERSIONS, theirs);
      if (!this.#isInitiator) this.lastWords = this.greeting;
      return undefined;
    }
    const [first, second] = this.#isInitiator ? [this.greeting, greeting] : [greeting, this.greeting];
    this.#transcript = createHash('sha256').update(first).update(second).digest();
    this.wantedBytes = PROOF_BYTES;
    return this.#isInitiator ? this.#proof(true, this.#transcript) : this.greeting;
  }

  #proof(ofInitiator: boolean, transcript: Uint8Array): Buffer {
    return this.#clusterKey.sum(ofInitiator ? 'initiator' : 'acceptor', transcript);
  }

  #linkKeys(transcript: Uint8Array): LinkKeys {
    const sum = this.#clusterKey.sum('keys', transcript);
    const ofInitiator = new Uint8Array(sum.subarray(0, LINK_KEY_BYTES));
    const ofAcceptor = new Uint8Array(sum.subarray(LINK_KEY_BYTES));
    return this.#isInitiator
      ? { sendKey: ofInitiator, receiveKey: ofAcceptor }
      : { sendKey: ofAcceptor, receiveKey: ofInitiator };
  }
}
