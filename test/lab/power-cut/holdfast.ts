// The daemon under the power-cut rig: its pool and its store on the disk that forgets.

import { execFileSync } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { EXTENT_BYTES } from '../../../src/core/units.ts';
import { decodeIntent } from '../../../src/replication/layout/intent.ts';
import type { Guest } from '../guest.ts';
import { LabDaemon, REPOSITORY } from '../daemon.ts';
import { LabError, mustRun } from '../machine.ts';
import { POOL_DIR, type Target, VOLUME_BYTES } from './rig.ts';

const API = '/run/holdfast.sock';
const START_TIMEOUT_MS = 90_000;

/** What control.ts says, in order. */
export type ControlEvent =
  | { readonly kind: 'listed'; readonly names: readonly string[] }
  | { readonly kind: 'attached'; readonly id: string; readonly device: string }
  | { readonly kind: 'creating' | 'created' | 'deleting' | 'deleted'; readonly name: string }
  | { readonly kind: 'failed'; readonly message: string };

export type Fault = 'no-data-flush' | 'no-intent-flush' | 'no-store-sync';

export class HoldfastTarget implements Target {
  readonly modules = ['nbd max_part=0 nbds_max=16'];
  readonly #faults: readonly Fault[];
  /** The last thing known of every volume's life; a question without an answer leaves both outcomes open. */
  readonly #lives = new Map<string, 'creating' | 'created' | 'deleting' | 'deleted'>();
  #problems: string[] = [];
  #volumeId: string | undefined;
  #eventsPath = '';
  #seenEvents = 0;
  #round = 0;

  constructor(...faults: Fault[]) {
    this.#faults = faults;
  }

  async inspect(guest: Guest): Promise<ReadonlySet<number>> {
    if (this.#volumeId === undefined) return new Set();
    const copy = join(guest.exchangeDir, 'intent');
    await mustRun(guest, `cp "$(find ${POOL_DIR} -path '*${this.#volumeId}*/intent')" ${copy}`);
    const extentCount = VOLUME_BYTES / EXTENT_BYTES;
    const { bits } = decodeIntent(await readFile(copy), extentCount);
    const extents = Array.from({ length: extentCount }, (_, extent) => extent);
    return new Set(extents.filter((extent) => (((bits[extent >> 3] ?? 0) >> (extent & 7)) & 1) === 0));
  }

  async start(guest: Guest, roundDir: string): Promise<string> {
    await this.#readEvents(); // what the last round still said before its cut
    this.#round++;
    this.#eventsPath = join(roundDir, `events-${this.#round}`);
    this.#seenEvents = 0;
    if (this.#round === 1) warmCompileCache(join(roundDir, 'compile-cache'));
    const env = {
      HOLDFAST_TEST: '1',
      HOLDFAST_TEST_FAULTS: this.#faults.join(','),
      NODE_COMPILE_CACHE: join(roundDir, 'compile-cache'),
    };
    const daemon = LabDaemon.launch(guest, {
      dataDir: `${POOL_DIR}/daemon`,
      poolDir: `${POOL_DIR}/replicas`,
      apiPath: API,
      env,
    });
    const script = join(import.meta.dirname, 'control.ts');
    const words = ['node', script, API, this.#eventsPath, this.#round, VOLUME_BYTES];
    guest.start(words.map(String), { env, timeoutMs: 300_000 });
    for (
      const deadline = Date.now() + START_TIMEOUT_MS;
      Date.now() < deadline && !daemon.isOver;
      await sleep(50)
    ) {
      const attached = (await this.#readEvents()).find((event) => event.kind === 'attached');
      if (attached === undefined) continue;
      this.#volumeId = attached.id;
      return attached.device;
    }
    throw new LabError(`the volume was not attached; the daemon's log:\n${await daemon.log()}`);
  }

  check(): Promise<string[]> {
    return Promise.resolve(this.#problems);
  }

  stir(): void {
    void writeFile(`${this.#eventsPath}.go`, ''); // a missing file would show as a round without volumes
  }

  /** Takes in what control.ts has said since the last look; throws when it failed. */
  async #readEvents(): Promise<ControlEvent[]> {
    const text = await readFile(this.#eventsPath, 'utf8').catch(() => '');
    const lines = text.split('\n').slice(0, -1);
    const events = lines.slice(this.#seenEvents).map((line) => JSON.parse(line) as ControlEvent);
    this.#seenEvents = lines.length;
    for (const event of events) this.#take(event);
    return events;
  }

  #take(event: ControlEvent): void {
    switch (event.kind) {
      case 'listed':
        this.#compare(new Set(event.names));
        break;
      case 'attached':
        break;
      case 'failed':
        throw new LabError(`in the guest: ${event.message}`);
      case 'creating':
      case 'created':
      case 'deleting':
      case 'deleted':
        this.#lives.set(event.name, event.kind);
    }
  }

  /** The store after the cut against what was asked and answered before it. */
  #compare(listed: ReadonlySet<string>): void {
    this.#problems = [];
    for (const [name, life] of this.#lives) {
      if (life === 'created' && !listed.has(name))
        this.#problems.push(`volume ${name} was answered and is gone`);
      if (life === 'deleted' && listed.has(name))
        this.#problems.push(`volume ${name} was deleted and is back`);
    }
    for (const name of listed) {
      if (!this.#lives.has(name)) this.#problems.push(`volume ${name} was never created`);
    }
    this.#lives.clear();
    for (const name of listed) this.#lives.set(name, 'created');
  }
}

/** A process that is killed leaves no compile cache; a third of a guest's start of Node.js is compiling. */
export function warmCompileCache(dir: string): void {
  const modules = ['src/cli/main.ts', 'src/cli/daemon/run.ts', 'src/cli/api-client.ts'];
  const imports = modules.map((path) => `await import(${JSON.stringify(join(REPOSITORY, path))});`);
  execFileSync(
    process.execPath,
    ['--eval', `process.argv.push('--version');${imports.join('')}process.exit(0)`],
    {
      env: { ...process.env, NODE_COMPILE_CACHE: dir },
      stdio: ['ignore', 'ignore', 'pipe'],
      timeout: 60_000,
    },
  );
}
