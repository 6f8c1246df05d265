// Whether this process should be left alone (healthy) and may be sent work (ready). Readiness follows the
// daemon's life; health is lost only for good, when a restart is the remedy.

export type DaemonPhase = 'starting' | 'serving' | 'stopping';

export class Health {
  #phase: DaemonPhase = 'starting';
  #failure: string | undefined;
  #problem: () => Promise<string | undefined> = async () => undefined;

  get phase(): DaemonPhase {
    return this.#phase;
  }

  enter(phase: DaemonPhase): void {
    this.#phase = phase;
  }

  /** For good: something broke that only a new process can mend. The first reason is kept. */
  fail(reason: string): void {
    this.#failure ??= reason;
  }

  /** What is asked for a reason why nothing can be served now. */
  askFor(problem: () => Promise<string | undefined>): void {
    this.#problem = problem;
  }

  /** Why nothing can be served now though the daemon runs (its store failed); undefined: it can. */
  async problem(): Promise<string | undefined> {
    return await this.#problem();
  }

  report(): { healthy: boolean; ready: boolean; phase: DaemonPhase; failure: string | null } {
    const healthy = this.#failure === undefined;
    return {
      healthy,
      ready: healthy && this.#phase === 'serving',
      phase: this.#phase,
      failure: this.#failure ?? null,
    };
  }
}
