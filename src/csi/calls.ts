// One table of the calls: what each one locks, and whether a failure in its middle leaves something behind.
// The services know nothing of it; every call goes through `Calls.run`.

import { HoldfastError } from '../core/errors.ts';
import { InvariantError } from '../core/invariant.ts';
import type { Logger } from '../observe/log.ts';
import { type CsiStatus, statusOf } from './status.ts';

interface Rule {
  /** One call at a time with the same key; undefined: it only reads. */
  readonly lock: ((request: Request) => string) | undefined;
}
interface Request {
  readonly name?: string;
  readonly volume_id?: string;
}

/** The controller's and the node's calls for a volume do not wait for each other: revoking must not wait for fsck. */
const byName: Rule = { lock: ({ name = '' }) => `name/${name}` };
const byVolume: Rule = { lock: ({ volume_id: id = '' }) => `controller/${id}` };
const byVolumeHere: Rule = { lock: ({ volume_id: id = '' }) => `node/${id}` };
const reads: Rule = { lock: undefined };

const RULES: Readonly<Record<string, Rule>> = {
  CreateVolume: byName,
  DeleteVolume: byVolume,
  ControllerPublishVolume: byVolume,
  ControllerUnpublishVolume: byVolume,
  ControllerExpandVolume: byVolume,
  NodeStageVolume: byVolumeHere,
  NodeUnstageVolume: byVolumeHere,
  NodePublishVolume: byVolumeHere,
  NodeUnpublishVolume: byVolumeHere,
  NodeExpandVolume: byVolumeHere,
};

/** kubelet gives up after two minutes: an answer that says what is slow comes before that. */
const ANSWER_TIMEOUT_MS = 110_000;

export interface CallsOptions {
  readonly log: Logger;
  readonly answerTimeoutMs?: number | undefined;
  /** A broken invariant: the process must not go on. */
  readonly onBroken: (error: InvariantError) => void;
}

export class Calls {
  readonly #options: CallsOptions;
  readonly #running = new Map<string, string>();
  readonly #ends = new Set<Promise<unknown>>();

  constructor(options: CallsOptions) {
    this.#options = options;
  }

  /**
   * Runs one call and never rejects. A second one for the same volume is ABORTED. When the answer is not
   * there in time the caller gets DEADLINE_EXCEEDED, and the lock stays until the work has really ended.
   */
  async run<T>(method: string, request: Request, work: () => Promise<T>): Promise<{ reply: T } | CsiStatus> {
    const { log, answerTimeoutMs = ANSWER_TIMEOUT_MS } = this.#options;
    const { lock } = RULES[method] ?? reads;
    const startedMs = performance.now();
    const facts = { method, volumeId: request.volume_id, name: request.name };
    try {
      const running = this.#locked(lock?.(request), method, work);
      const reply = await inTime(running, answerTimeoutMs, method, (error) =>
        this.#failed(error, facts, 'late'),
      );
      log.debug({ ...facts, tookMs: Math.round(performance.now() - startedMs) }, 'csi call answered');
      return { reply };
    } catch (error) {
      const failure = statusOf(error, { mayLeaveState: lock !== undefined });
      this.#failed(error, { ...facts, status: failure.code }, 'in time');
      return failure;
    }
  }

  /** Late: after its caller was told DEADLINE_EXCEEDED, so that only the log still learns of it. */
  #failed(error: unknown, facts: object, when: 'in time' | 'late'): void {
    const level = isOurFault(error) ? 'error' : when === 'late' ? 'warn' : 'debug';
    const what = when === 'late' ? 'csi call failed after its answer was due' : 'csi call failed';
    this.#options.log[level]({ ...facts, error }, what);
    if (error instanceof InvariantError) this.#options.onBroken(error);
  }

  /** Resolves when nothing runs any more. */
  async drained(): Promise<void> {
    await Promise.allSettled(this.#ends);
  }

  async #locked<T>(key: string | undefined, method: string, work: () => Promise<T>): Promise<T> {
    const other = key === undefined ? undefined : this.#running.get(key);
    if (other !== undefined) {
      throw new HoldfastError('BUSY', `${other} for the same volume is still running; it will be repeated`);
    }
    if (key !== undefined) this.#running.set(key, method);
    const end = work().finally(() => {
      if (key !== undefined) this.#running.delete(key);
      this.#ends.delete(end);
    });
    this.#ends.add(end);
    return await end;
  }
}

/** Statuses that a request cannot cause: somebody should look. */
function isOurFault(error: unknown): boolean {
  return (
    !(error instanceof HoldfastError) ||
    error.code === 'INTERNAL' ||
    error.code === 'CORRUPT' ||
    error.code === 'IO'
  );
}

async function inTime<T>(
  work: Promise<T>,
  timeoutMs: number,
  method: string,
  onLateFailure: (error: unknown) => void,
): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      work.catch(onLateFailure);
      reject(
        new HoldfastError('TIMEOUT', `${method} takes longer than ${timeoutMs} ms and goes on; ask again`),
      );
    }, timeoutMs);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
