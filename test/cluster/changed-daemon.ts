// A daemon whose program a test has changed: a rule of the protocol switched off, a place at which it stands still,
// other versions of its formats. Node loads this file before the daemon's own, in each of its threads, because
// NODE_OPTIONS of that one process says so; it changes the modules that the daemon then runs with. Production code holds
// nothing of it: no switch, no name of a place, no variable that it looks at.

import { existsSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { CONTROL_VERSIONS } from '../../src/control/channel/protocol.ts';
import { HANDSHAKE_VERSIONS } from '../../src/dataplane/peers/handshake.ts';
import { Link } from '../../src/dataplane/peers/link.ts';
import { LinkFrames } from '../../src/dataplane/peers/link-frames.ts';
import { type ControlMessage, FRAME_STAMPS } from '../../src/replication/frames.ts';
import { Frontend } from '../../src/replication/frontend.ts';
import { FORMATS } from '../../src/replication/layout/formats.ts';
import { PrimaryState } from '../../src/replication/primary/state.ts';
import { Replica } from '../../src/replication/replica.ts';
import { breaking, type Rule } from '../../src/replication/rules.ts';
import { WIRE_VERSIONS } from '../../src/replication/wire.ts';

const VARIABLE = 'TEST_CHANGES';
const STDERR = 2;
/** How often a thread looks whether it is to stand still. */
const LOOK_EVERY_MS = 20;
/** A signal that a process sends itself is delivered well within this. */
const DELIVERED_MS = 200;

/** Of a process that goes on: its requests are handled before its timers, for so long. */
const TIMERS_LATE_MS = 3000;

/** before: a request waits for its reply and its lease stands. after: the lease was looked at, and the reply leaves next. */
export type Place = 'before' | 'after';

/** The versions that a daemon speaks, reads and writes: as those of the sources, and this much further. */
export interface OtherVersions {
  /** Of the newest that it speaks with other daemons, and that it reads of its own files. */
  readonly newest: number;
  /** Of its files. */
  readonly written: number;
  /** Of the oldest that it speaks with other daemons. */
  readonly oldest?: number;
}

/** A release that knows of one more version of everything, and writes files that the one before it reads. */
export const NEXT_RELEASE: OtherVersions = { newest: 1, written: 0 };
/** The one after it, as far as files are concerned. */
export const RELEASE_AFTER_NEXT: OtherVersions = { newest: 1, written: 1 };
/** One that has forgotten what these sources speak; its files are as theirs. */
export const DISTANT_RELEASE: OtherVersions = { newest: 1, written: 0, oldest: 1 };

export interface Changes {
  readonly versions?: OtherVersions;
  readonly brokenRules?: readonly Rule[];
  /**
   * A file in which a test writes a Place: the next request there stops the process (SIGSTOP), once. When it goes on its
   * timers are late, so that it does not find its members silent before it looks at anything else.
   */
  readonly stopFile?: string;
}

/** What a daemon's environment holds to be changed so. */
export function environmentOf(changes: Changes): NodeJS.ProcessEnv {
  return {
    NODE_OPTIONS: `--import=${import.meta.url}`,
    // It loads before the daemon says where its compiled code is kept.
    NODE_COMPILE_CACHE: fileURLToPath(new URL('../../node_modules/.cache/holdfast', import.meta.url)),
    [VARIABLE]: JSON.stringify(changes),
  };
}

function apply({ versions, brokenRules = [], stopFile }: Changes): void {
  if (versions !== undefined) applyVersions(versions);
  const broken = breaking(...brokenRules);
  let ticksFromMs = 0;
  const stopped = (): void => {
    ticksFromMs = performance.now() + TIMERS_LATE_MS;
  };
  const stop = stopFile === undefined ? undefined : stopper(stopFile, stopped);
  for (const timed of [Replica.prototype, Frontend.prototype]) {
    const { tick } = timed;
    timed.tick = function (this: Replica & Frontend): void {
      if (performance.now() >= ticksFromMs) tick.call(this);
    };
  }
  const { mayReply } = PrimaryState.prototype;
  PrimaryState.prototype.mayReply = function (this: PrimaryState): boolean {
    if (brokenRules.length > 0) Object.assign(this.hub, { broken });
    if (stop !== undefined && mayReply.call(this)) stop('before');
    const isAllowed = mayReply.call(this);
    if (isAllowed) stop?.('after');
    return isAllowed;
  };
}

function applyVersions({ newest, written, oldest = 0 }: OtherVersions): void {
  for (const range of [WIRE_VERSIONS, HANDSHAKE_VERSIONS, CONTROL_VERSIONS]) {
    Object.assign(range, { min: range.min + oldest, max: range.max + newest });
  }
  for (const format of Object.values(FORMATS)) {
    Object.assign(format, { version: format.version + written, reads: { ...format.reads } });
    Object.assign(format.reads, { max: format.reads.max + newest });
  }
  // What these sources have no word for, in every message to another daemon.
  const { sendControl } = Link.prototype;
  Link.prototype.sendControl = function (this: Link, type: number, message: ControlMessage): void {
    sendControl.call(this, type, type === FRAME_STAMPS ? message : { ...message, ofTheNextRelease: true });
  };
  const version = Object.getOwnPropertyDescriptor(LinkFrames.prototype, 'version');
  const told = new Set<number>();
  Object.defineProperty(LinkFrames.prototype, 'version', {
    set(this: LinkFrames, agreed: number) {
      if (!told.has(agreed)) writeSync(STDERR, `${spokenLine(agreed)}\n`);
      told.add(agreed);
      version?.set?.call(this, agreed);
    },
  });
}

/** Among the lines of such a daemon: it has agreed with another one on the version, so much further than these sources'. */
export function spokenLine(agreed: number): string {
  return `a link speaks version ${agreed} of the wire format`;
}

function stopper(file: string, stopped: () => void): (place: Place) => void {
  const never = new Int32Array(new SharedArrayBuffer(4));
  let lookAtMs = 0;
  let wanted: string | undefined;
  return (place) => {
    const nowMs = performance.now();
    if (nowMs >= lookAtMs) {
      lookAtMs = nowMs + LOOK_EVERY_MS;
      wanted = existsSync(file) ? readFileSync(file, 'utf8') : undefined;
    }
    if (wanted !== place) return;
    wanted = undefined;
    rmSync(file);
    process.kill(process.pid, 'SIGSTOP');
    // Another thread may be the one that takes the signal: this one goes no further before all stand still.
    Atomics.wait(never, 0, 0, DELIVERED_MS);
    stopped();
  };
}

const changes = process.env[VARIABLE];
if (changes !== undefined) apply(JSON.parse(changes) as Changes);
