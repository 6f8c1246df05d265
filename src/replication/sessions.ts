// The frontends' side of a replica: who may send requests, and the way of the answers back.
//
// Invariants: only the newest session of the current attachment is read; a session of the next attachment is
// welcomed only when everything admitted of older ones is settled (I10); every request of a session gets one
// reply or none, and none only when the session ends; of sessions that are over at most two have requests under
// way: a further one of the same attachment is welcomed when one of them has none any more.

import {
  FRAME_MOVED,
  FRAME_REFUSED,
  FRAME_REPLY,
  FRAME_REVOKED,
  FRAME_WAITING,
  FRAME_WELCOME,
  type FrameFields,
  OFFSET,
  type RefusalReason,
  SEQUENCE,
  type SessionHello,
} from './frames.ts';
import type { Hub } from './hub.ts';
import type { Primary } from './primary.ts';
import { NONE, READ } from './requests.ts';
import { BEAT_MS } from './timing.ts';

/** Sessions that are over and have requests under way, and still another one of their attachment is welcomed. */
const OLD_SESSIONS = 2;

interface Session {
  readonly link: number;
  readonly hello: SessionHello;
  isWelcome: boolean;
  isClosed: boolean;
  unansweredCount: number;
}

export class Sessions {
  readonly #hub: Hub;
  readonly #primary: () => Primary | undefined;
  readonly #sessions = new Map<number, Session>();
  /** Highest session number seen, by attachment. */
  readonly #numbers = new Map<number, number>();

  #hasWaiting = false;
  #beatAtMs = 0;
  #heardMs = 0;

  constructor(hub: Hub, primary: () => Primary | undefined) {
    this.#hub = hub;
    this.#primary = primary;
  }

  hello(link: number, hello: SessionHello): void {
    const hub = this.#hub;
    const reason = this.#refusal(hello);
    if (reason !== undefined) {
      hub.ports.sendControl(link, FRAME_REFUSED, { reason, epoch: hub.known.config.epoch });
      hub.ports.closeLink(link);
      return;
    }
    this.#numbers.set(hello.attachment, hello.session);
    for (const older of this.#sessions.values()) this.#close(older);
    this.#primary()?.discardUnheard();
    this.#heardMs = hub.ports.nowMs();
    this.#sessions.set(link, { link, hello, isWelcome: false, isClosed: false, unansweredCount: 0 });
    this.#hasWaiting = true;
    this.progress();
  }

  #refusal(hello: SessionHello): RefusalReason | undefined {
    const { known, broken } = this.#hub;
    const { config } = known;
    const phase = this.#primary()?.phase;
    // One that is about to serve welcomes it then.
    if (phase !== 'serving' && phase !== 'adopting') return 'notPrimary';
    if (hello.epoch > config.epoch && !broken.frontendNeverGoesBack) {
      this.#hub.look();
      return 'epoch';
    }
    if (hello.attachment > config.attachment.number) {
      this.#hub.look();
      return 'busy';
    }
    const isCurrent = hello.attachment === config.attachment.number && hello.node === config.attachment.node;
    if (!isCurrent && !broken.revokedAttachmentRefused) return 'revoked';
    const isOld = hello.session <= (this.#numbers.get(hello.attachment) ?? 0);
    return isOld && !broken.lowerSessionRefused ? 'number' : undefined;
  }

  /** A session that waits for the primary to serve, or for the end of an older attachment's requests, may be welcomed. */
  progress(): void {
    if (!this.#hasWaiting || this.#primary()?.isServing !== true) return;
    const hub = this.#hub;
    this.#hasWaiting = false;
    for (const session of this.#sessions.values()) {
      if (session.isWelcome || session.isClosed) continue;
      const isEarly = this.#isUnsettled(session) && !hub.broken.oldAttachmentSettledFirst;
      if (isEarly || this.#hasTooMany(session)) {
        this.#hasWaiting = true;
        continue;
      }
      session.isWelcome = true;
      hub.ports.sendControl(session.link, FRAME_WELCOME, {
        kind: 'session',
        epoch: hub.known.config.epoch,
        opening: hub.known.config.primary.opening,
        sizeBytes: hub.known.config.sizeBytes,
      });
    }
  }

  /** Something of an older attachment is under way. */
  #isUnsettled({ hello }: Session): boolean {
    return [...this.#sessions.values()].some(
      (older) => older.hello.attachment < hello.attachment && older.unansweredCount > 0,
    );
  }

  /** What earlier sessions of the same attachment began holds as many slots as it may. */
  #hasTooMany({ hello }: Session): boolean {
    const older = [...this.#sessions.values()].filter(
      (other) => other.isClosed && other.hello.attachment === hello.attachment && other.unansweredCount > 0,
    );
    return older.length >= OLD_SESSIONS;
  }

  /** Whoever waits for an answer hears that this primary is alive; and all say whether they are when it misses a member. */
  tick(): void {
    if (this.#sessions.size === 0) return;
    const { ports, out, known } = this.#hub;
    if (ports.nowMs() < this.#beatAtMs) return;
    const isWanted = this.#primary()?.missesMember === true;
    this.#beatAtMs = ports.nowMs() + BEAT_MS;
    for (const session of this.#sessions.values()) {
      if (!session.isWelcome || session.isClosed) continue;
      if (session.unansweredCount === 0 && !isWanted) continue;
      out.type = FRAME_WAITING;
      out.flags = 0;
      out.errno = 0;
      out.epoch = known.config.epoch;
      out.lengthBytes = 0;
      ports.sendFrame(session.link, out, NONE);
    }
  }

  request(link: number, fields: FrameFields, request: number): void {
    const { table, ports } = this.#hub;
    const session = this.#sessions.get(link);
    const primary = this.#primary();
    const isVoid = session?.isClosed === true && !this.#hub.broken.oldSessionIsVoid;
    if (session === undefined || !session.isWelcome || isVoid || primary === undefined) {
      ports.release(request);
      return;
    }
    if (!this.#isInside(fields)) {
      // The volume has grown, and this primary has not heard of it: it reads the store, and the frontend comes again.
      this.#hub.look();
      ports.release(request);
      this.#close(session);
      return;
    }
    table.kind[request] = fields.errno;
    table.flags[request] = fields.flags;
    table.offsetBytes[request] = fields.numbers[OFFSET] as number;
    table.lengthBytes[request] = fields.lengthBytes;
    table.tag[request] = fields.numbers[SEQUENCE] as number;
    table.origin[request] = link;
    session.unansweredCount += 1;
    this.#heardMs = ports.nowMs();
    primary.admit(request);
  }

  /** It was asked whether it is there. */
  here(link: number): void {
    if (this.#sessions.get(link)?.isClosed === false) this.#heardMs = this.#hub.ports.nowMs();
  }

  /**
   * When any client last said something; undefined: nobody uses the volume. One whose link has ended may still be there:
   * who is cut off may see its links reset.
   */
  get heardMs(): number | undefined {
    return this.#hub.known.config.attachment.node === null ? undefined : this.#heardMs;
  }

  /** Of the size that this primary knows: what it fills others with ends there. */
  #isInside(fields: FrameFields): boolean {
    const endBytes = (fields.numbers[OFFSET] as number) + fields.lengthBytes;
    return endBytes <= this.#hub.known.config.sizeBytes || this.#hub.broken.requestsStayInside;
  }

  isRevoked(request: number): boolean {
    const session = this.#sessions.get(this.#hub.table.origin[request] as number);
    const { attachment } = this.#hub.known.config;
    return (
      session !== undefined &&
      session.hello.attachment < attachment.number &&
      !this.#hub.broken.revokedAttachmentRefused
    );
  }

  /** Its session is over. */
  isUnheard(request: number): boolean {
    const session = this.#sessions.get(this.#hub.table.origin[request] as number);
    return session?.isClosed === true && !this.#hub.broken.oldSessionIsVoid;
  }

  answer(request: number, errno: number): void {
    const { table, ports, out } = this.#hub;
    const link = table.origin[request] as number;
    const session = this.#sessions.get(link);
    if (session !== undefined && !session.isClosed) {
      const isData = table.kind[request] === READ && errno === 0;
      out.type = FRAME_REPLY;
      out.flags = 0;
      out.errno = errno;
      out.lengthBytes = isData ? (table.lengthBytes[request] as number) : 0;
      out.numbers[SEQUENCE] = table.tag[request] as number;
      ports.sendFrame(link, out, isData ? request : NONE);
    }
    this.giveBack(request);
  }

  giveBack(request: number): void {
    const { table, ports } = this.#hub;
    const session = this.#sessions.get(table.origin[request] as number);
    if (session !== undefined) {
      session.unansweredCount -= 1;
      if (session.isClosed && session.unansweredCount === 0) this.#sessions.delete(session.link);
    }
    ports.release(request);
    this.progress();
  }

  /** Sessions of attachments that are over end now; what they had started runs to its end unheard. */
  attachmentChanged(): void {
    const { config } = this.#hub.known;
    for (const session of this.#sessions.values()) {
      if (session.hello.attachment >= config.attachment.number || this.#hub.broken.revokedAttachmentRefused)
        continue;
      // Before the Welcome no version is agreed on, and nothing but a refusal can be said.
      if (!session.isWelcome) this.#refuseLate(session, 'revoked');
      else if (!session.isClosed) {
        this.#hub.out.type = FRAME_REVOKED;
        this.#hub.ports.sendFrame(session.link, this.#hub.out, NONE);
      }
      this.#close(session);
    }
    this.progress();
  }

  /** The primary is elsewhere from now on. */
  moved(): void {
    for (const session of this.#sessions.values()) {
      if (!session.isWelcome) this.#refuseLate(session, 'notPrimary');
      else if (!session.isClosed)
        this.#hub.ports.sendControl(session.link, FRAME_MOVED, { epoch: this.#hub.known.config.epoch });
      this.#close(session);
    }
  }

  #refuseLate({ link, isClosed }: Session, reason: RefusalReason): void {
    const { ports, known } = this.#hub;
    if (!isClosed) ports.sendControl(link, FRAME_REFUSED, { reason, epoch: known.config.epoch });
  }

  linkClosed(link: number): void {
    const session = this.#sessions.get(link);
    if (session === undefined || session.isClosed) return;
    session.isClosed = true;
    if (session.unansweredCount === 0) this.#sessions.delete(link);
    else this.#primary()?.discardUnheard();
  }

  #close(session: Session): void {
    if (session.isClosed) return;
    session.isClosed = true;
    this.#hub.ports.closeLink(session.link);
    if (session.unansweredCount === 0) this.#sessions.delete(session.link);
  }
}
