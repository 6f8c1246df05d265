// The Hello of an accepted connection: in which version of the wire format both speak from there on, and the refusal
// when there is none. It names ours, so that the log of either daemon says which of them is to be upgraded.

import { FRAME_HELLO, type Hello, type Refused } from '../../replication/frames.ts';
import { chooseVersion, tooFarApart, type VersionRange } from '../../replication/wire.ts';
import { decodeControl, helloVersions } from '../../replication/wire-control.ts';

export interface ReadHello {
  readonly hello: Hello;
  readonly version: number;
}

/** A text: why there is no version for both. Throws HoldfastError CORRUPT for what is no Hello. */
export function readHello(bytes: Uint8Array, ours: VersionRange): ReadHello | string {
  const theirs = helloVersions(bytes);
  const version = chooseVersion(ours, theirs);
  if (version === undefined) return tooFarApart('the wire format', ours, theirs);
  return { hello: decodeControl(FRAME_HELLO, bytes) as Hello, version };
}

/** The answer to a Hello of no common version. */
export function refusalNaming(ours: VersionRange): Refused & { readonly wireVersion: VersionRange } {
  return { reason: 'busy', epoch: 0, wireVersion: ours };
}

/** Of a Refused that was decoded: that it is for the versions, or undefined. Throws HoldfastError CORRUPT. */
export function refusedVersions(bytes: Uint8Array, ours: VersionRange): string | undefined {
  const { wireVersion } = JSON.parse(new TextDecoder().decode(bytes)) as { readonly wireVersion?: unknown };
  return wireVersion === undefined ? undefined : tooFarApart('the wire format', ours, helloVersions(bytes));
}
