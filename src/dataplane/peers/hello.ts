// The Hello of an accepted connection: in which version of the wire format both speak from there on.

import { FRAME_HELLO, type Hello } from '../../replication/frames.ts';
import { chooseVersion, type VersionRange } from '../../replication/wire.ts';
import { decodeControl, helloVersions } from '../../replication/wire-control.ts';

export interface ReadHello {
  readonly hello: Hello;
  readonly version: number;
}

/** A text: why there is no version for both. Throws HoldfastError CORRUPT for what is no Hello. */
export function readHello(bytes: Uint8Array, ours: VersionRange): ReadHello | string {
  const theirs = helloVersions(bytes);
  const version = chooseVersion(ours, theirs);
  if (version === undefined) {
    return (
      `it speaks versions ${theirs.min} to ${theirs.max} of the wire format and this daemon ` +
      `${ours.min} to ${ours.max}: upgrade the older one`
    );
  }
  return { hello: decodeControl(FRAME_HELLO, bytes) as Hello, version };
}
