// Watches the data-plane threads for one that never comes back from a turn of its loop. Such a thread answers
// nobody, and its volumes hang without an error: the process must end, and the next daemon take over. But not one
// that sleeps in the kernel for a disk: the end would wait for that disk too, keep every lock and serve nobody,
// while here the other threads go on. That is told once, and so is its end.
//
// A thread's beat is one word that it stores twice a turn: odd inside the turn, even while it waits for the ring,
// which may be for ever. What counts is how often the main thread has looked and seen the same odd word, not what a
// clock says: a machine that was suspended or a process that was stopped comes back to one look, not to a verdict.

import { readlinkSync } from 'node:fs';
import { basename } from 'node:path';
import { isThreadInDiskSleep } from './process-state.ts';

/** The limit is this many looks. */
const LOOKS = 4;

// Words of a beat.
const TURN = 0;
const THREAD_ID = 1;

interface Watched {
  readonly beat: Int32Array;
  last: number;
  /** In the same turn, running or in a sleep that a signal ends. */
  looks: number;
  /** In the same turn or the same wait for the ring, in a sleep that nothing ends but the disk. */
  diskLooks: number;
  isHung: boolean;
}

export interface Watch {
  stuck(error: Error): void;
  /** `thread` counts from 0 in the order of watch(). Once when it is seen, once when it is over. */
  hung(thread: number, isOver: boolean): void;
}

export class Watchdog {
  readonly #limitMs: number;
  readonly #watch: Watch;
  readonly #isInDiskSleep: (threadId: number) => boolean;
  readonly #watched: Watched[] = [];
  #timer: NodeJS.Timeout | undefined;

  /** `limitMs`: of one turn; found out within a quarter more. 0: nothing is watched. */
  constructor(limitMs: number, watch: Watch, isInDiskSleep = isThreadInDiskSleep) {
    this.#limitMs = limitMs;
    this.#watch = watch;
    this.#isInDiskSleep = isInDiskSleep;
    if (limitMs > 0) this.#timer = setInterval(() => this.#look(), Math.ceil(limitMs / LOOKS)).unref();
  }

  watch(beat: Int32Array): void {
    this.#watched.push({ beat, last: 0, looks: 0, diskLooks: 0, isHung: false });
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    for (const [thread, watched] of this.#watched.entries()) {
      if (!this.#isStuck(watched, thread)) continue;
      this.stop();
      this.#watch.stuck(
        new Error(`a data-plane thread has been in one turn of its loop for more than ${this.#limitMs} ms`),
      );
      return;
    }
  }

  #isStuck(watched: Watched, thread: number): boolean {
    const word = Atomics.load(watched.beat, TURN);
    const threadId = Atomics.load(watched.beat, THREAD_ID);
    if (word !== watched.last) {
      watched.last = word;
      watched.looks = 0;
      watched.diskLooks = 0;
      if (watched.isHung) this.#watch.hung(thread, true);
      watched.isHung = false;
      return false;
    }
    if (threadId !== 0 && this.#isInDiskSleep(threadId)) {
      watched.looks = 0;
      watched.diskLooks += 1;
      if (watched.diskLooks >= LOOKS && !watched.isHung) {
        watched.isHung = true;
        this.#watch.hung(thread, false);
      }
      return false;
    }
    watched.diskLooks = 0;
    watched.looks = isInTurn(word) ? watched.looks + 1 : 0;
    return watched.looks >= LOOKS;
  }
}

/** The words of a thread that has not begun. */
export function createBeat(): Int32Array {
  return new Int32Array(new SharedArrayBuffer(8));
}

/** Called by the thread itself: whose beat it is. Without /proc nobody can tell why it sleeps. */
export function nameThread(beat: Int32Array): void {
  try {
    Atomics.store(beat, THREAD_ID, Number(basename(readlinkSync('/proc/thread-self'))));
  } catch {
    // The thread is watched all the same, as one that never waits for a disk.
  }
}

function isInTurn(word: number): boolean {
  return (word & 1) === 1;
}

/** Both are called by the thread, and neither allocates. */
export function turnBegins(beat: Int32Array): void {
  Atomics.store(beat, TURN, ((beat[TURN] as number) + 1) | 1);
}

export function turnEnds(beat: Int32Array): void {
  Atomics.store(beat, TURN, ((beat[TURN] as number) + 1) & ~1);
}
