// Simulated time: events in the order of their time, and of their making where times are equal.

interface Event {
  readonly atMs: number;
  readonly number: number;
  readonly run: () => void;
}

export class Schedule {
  nowMs = 0;
  eventCount = 0;
  readonly #heap: Event[] = [];
  #number = 0;

  after(delayMs: number, run: () => void): void {
    this.at(this.nowMs + delayMs, run);
  }

  /** Not before now. What is to happen at the same time happens in the order of these calls. */
  at(atMs: number, run: () => void): void {
    this.#number += 1;
    this.#push({ atMs, number: this.#number, run });
  }

  /** Runs the next event; false when there is none. */
  step(): boolean {
    const next = this.#pop();
    if (next === undefined) return false;
    this.nowMs = next.atMs;
    this.eventCount += 1;
    next.run();
    return true;
  }

  #before(a: Event, b: Event): boolean {
    return a.atMs < b.atMs || (a.atMs === b.atMs && a.number < b.number);
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (!this.#before(event, heap[parent] as Event)) break;
      heap[at] = heap[parent] as Event;
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): Event | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (first === undefined || last === undefined || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && this.#before(heap[child + 1] as Event, heap[child] as Event)) child += 1;
      if (!this.#before(heap[child] as Event, last)) break;
      heap[at] = heap[child] as Event;
      at = child;
    }
    heap[at] = last;
    return first;
  }
}
