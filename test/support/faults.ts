// Failures at the N-th call of anything asynchronous: before or after its effect, once or for ever (a crash).

import { HoldfastError } from '../../src/core/errors.ts';

/** fail: one call fails and the process goes on. crash: the process makes no further call. */
export const FAULT_KINDS = ['failBefore', 'failAfter', 'crashBefore', 'crashAfter'] as const;
export type FaultKind = (typeof FAULT_KINDS)[number];

export class Crash extends Error {
  override readonly name = 'Crash';
}

export class Faults {
  readonly kind: FaultKind | undefined;
  readonly #callName: string | undefined;
  #callsLeft: number;
  #isCrashed = false;
  #successor: Faults | undefined;
  /** Where it struck; undefined as long as it has not. */
  struckAt: string | undefined;

  /** No kind: never strikes. `atCall` counts from 1, and only calls of `callName` if that is given. */
  constructor(kind?: FaultKind, atCall = Number.POSITIVE_INFINITY, callName?: string) {
    this.kind = kind;
    this.#callsLeft = atCall;
    this.#callName = callName;
  }

  get isCrashed(): boolean {
    return this.#isCrashed;
  }

  /** What was wrapped with this plan follows another one from now on. */
  rearm(successor: Faults): void {
    this.#successor = successor;
  }

  /** `target` with every call of the named methods under this plan. */
  around<T extends object>(target: T, methods: readonly (keyof T & string)[]): T {
    const watched = new Set<PropertyKey>(methods);
    return new Proxy(target, {
      get: (object, property) => {
        const member: unknown = Reflect.get(object, property, object);
        if (typeof member !== 'function') return member;
        if (!watched.has(property)) return member.bind(object) as unknown;
        return async (...args: unknown[]): Promise<unknown> => {
          const plan = this.#successor ?? this;
          return await plan.#call(
            String(property),
            async () => (await Reflect.apply(member, object, args)) as unknown,
          );
        };
      },
    });
  }

  async #call(name: string, run: () => Promise<unknown>): Promise<unknown> {
    if (this.#isCrashed) throw new Crash(`the process is gone: ${name}`);
    if (this.#callName === undefined || this.#callName === name) this.#callsLeft -= 1;
    if (this.#callsLeft !== 0 || this.kind === undefined || this.struckAt !== undefined) return await run();
    this.struckAt = name;
    this.#isCrashed = this.kind.startsWith('crash');
    if (this.kind.endsWith('After')) await run();
    throw this.#isCrashed ? new Crash(name) : new HoldfastError('UNAVAILABLE', `${name} failed`);
  }
}
