// The pools of this node: those that are open, and those that could not be opened, with the reason. One pool's
// missing disk costs its own volumes and nobody else's: the others serve, and the missing one is tried again
// until it is there.
//
// - A pool is opened as what it was before (known-pools.ts), and remembered before anyone can use it.
// - Tries of one pool never overlap, so a directory that hangs holds few of libuv's threads. Nobody waits for one:
//   the try goes on by itself, and the pool is not open until it ends.
// - An open pool stays open until close().

import { HoldfastError } from '../core/errors.ts';
import type { KnownPools } from './known-pools.ts';
import type { ClosedPool } from './node-storage.ts';
import { Pool, type PoolOptions } from './pool.ts';
import { findSamePlace } from './same-place.ts';
import { storageError } from './durable-files.ts';
import { whileBusy } from './while-busy.ts';

export interface PoolConfig extends PoolOptions {
  readonly name: string;
  readonly directory: string;
}

export type PoolEvent =
  | { readonly type: 'opened'; readonly pool: string; readonly directory: string; readonly ioMode: string }
  | {
      readonly type: 'failed';
      readonly pool: string;
      readonly directory: string;
      readonly error: HoldfastError;
    };

export interface NodePoolsOptions {
  readonly pools: readonly PoolConfig[];
  /** undefined: any pool is taken as it is (a store of a test or a benchmark, for one process's life). */
  readonly knownPools?: KnownPools | undefined;
  /** Each pool's first failure, every failure of another kind after it, and every opening. */
  readonly onPoolEvent?: ((event: PoolEvent) => void) | undefined;
  readonly poolRetryIntervalMs?: number | undefined;
  /** How long the start waits for a pool that another process has: that one may be on its way out. */
  readonly poolBusyWaitMs?: number | undefined;
  /** After this long a directory is said to hang, and nobody waits for it any more. */
  readonly poolHangLimitMs?: number | undefined;
}

const RETRY_INTERVAL_MS = 10_000;
const HANG_LIMIT_MS = 5000;

interface Place {
  readonly config: PoolConfig;
  pool: Pool | undefined;
  error: HoldfastError | undefined;
  attempt: Attempt | undefined;
}

/** Neither rejects. */
interface Attempt {
  readonly ended: Promise<void>;
  /** The directory did not answer in time; never, if it does. */
  readonly hangs: Promise<void>;
}

export class NodePools {
  readonly #places: readonly Place[];
  readonly #known: KnownPools | undefined;
  readonly #onEvent: (event: PoolEvent) => void;
  readonly #hangLimitMs: number;
  #retries: NodeJS.Timeout | undefined;
  #isClosed = false;

  /** Resolves when every pool is open, has failed or hangs. INVALID, without having touched any, where two are one. */
  static async open(options: NodePoolsOptions): Promise<NodePools> {
    await requireDistinct(options.pools, options.poolHangLimitMs ?? HANG_LIMIT_MS);
    const pools = new NodePools(options);
    // A pool whose last owner was killed is free when its last request has landed.
    await Promise.all(
      pools.#places.map((place) => pools.#try(place, (open) => whileBusy(open, options.poolBusyWaitMs))),
    );
    const intervalMs = options.poolRetryIntervalMs ?? RETRY_INTERVAL_MS;
    pools.#retries = setInterval(() => void pools.retry(), intervalMs).unref(); // reports itself
    return pools;
  }

  private constructor({ pools, knownPools, onPoolEvent, poolHangLimitMs }: NodePoolsOptions) {
    this.#places = pools.map((config) => ({ config, pool: undefined, error: undefined, attempt: undefined }));
    this.#known = knownPools;
    this.#onEvent = onPoolEvent ?? (() => undefined);
    this.#hangLimitMs = poolHangLimitMs ?? HANG_LIMIT_MS;
  }

  /** In the order of the configuration. */
  opened(): Pool[] {
    return this.#places.flatMap(({ pool }) => pool ?? []);
  }

  /**
   * Those that are not open, those that are and were found unusable when they were looked at last, and those that
   * were used before and are missing from the configuration: all that may hold what nobody sees.
   */
  closed(): ClosedPool[] {
    const unconfigured = (this.#known?.names() ?? []).filter((name) => this.#placeOf(name) === undefined);
    const configured = this.#places.flatMap(({ config: { name, directory }, pool, error }) => {
      if (pool === undefined) return [{ name, directory, problem: error?.message ?? 'it is being opened' }];
      return pool.problem === undefined ? [] : [{ name, directory, problem: pool.problem.message }];
    });
    return [
      ...configured,
      ...unconfigured.map((name) => ({ name, directory: '', problem: unconfiguredError(name).message })),
    ];
  }

  /** NOT_FOUND when this node never had such a pool, UNAVAILABLE while it is not open. */
  required(name: string): Pool {
    const place = this.#placeOf(name);
    if (place?.pool !== undefined) return place.pool;
    if (place === undefined && this.#known?.idOf(name) !== undefined) throw unconfiguredError(name);
    if (place === undefined) {
      const names = this.#places.map(({ config }) => config.name).join(', ');
      throw new HoldfastError('NOT_FOUND', `this node has no pool '${name}'; it has ${names}`);
    }
    throw new HoldfastError(
      'UNAVAILABLE',
      `pool '${name}' is not open: ${place.error?.message ?? 'it is being opened'}`,
      { cause: place.error },
    );
  }

  /** undefined: a person had it forgotten, with all that is in it. UNAVAILABLE while it is not open. */
  unlessForgotten(name: string): Pool | undefined {
    const isForgotten = this.#placeOf(name) === undefined && this.#known?.idOf(name) === undefined;
    return isForgotten ? undefined : this.required(name);
  }

  /** Of the configuration, in its order, open or not. */
  names(): string[] {
    return this.#places.map(({ config }) => config.name);
  }

  /** One more try of every pool that is not open. Never rejects. */
  async retry(): Promise<void> {
    if (this.#isClosed) return;
    await Promise.all(this.#places.map((place) => this.#try(place, (open) => open())));
  }

  /**
   * CONFLICT while it is open: what is in use is not forgotten. Then whatever is found is tried as a new pool.
   * UNAVAILABLE while a try hangs: it would bring back what is forgotten.
   */
  async forget(name: string): Promise<void> {
    const place = this.#placeOf(name);
    if (place?.attempt !== undefined) await this.#waitFor(place.attempt);
    if (place?.attempt !== undefined) {
      throw new HoldfastError(
        'UNAVAILABLE',
        `pool '${name}' cannot be forgotten now: ${place.error?.message ?? 'it is being opened'}; or stop the daemon, ` +
          'take the pool from its configuration and forget it then',
        { details: { pool: name } },
      );
    }
    if (place?.pool !== undefined) {
      throw new HoldfastError('CONFLICT', `pool '${name}' is open: there is nothing to forget`);
    }
    if (place === undefined && this.#known?.idOf(name) === undefined) {
      throw new HoldfastError('NOT_FOUND', `this node never had a pool '${name}'`);
    }
    await this.#known?.forget(name);
    if (place !== undefined) await this.#try(place, (open) => open());
  }

  /** Every replica must be closed. Twice does no harm. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearInterval(this.#retries);
    // A try under way is not waited for: it may hang in the kernel, and gives back what it gets.
    for (const pool of this.opened()) await pool.close();
  }

  #placeOf(name: string): Place | undefined {
    return this.#places.find(({ config }) => config.name === name);
  }

  /** Until it ends or hangs. */
  #waitFor({ ended, hangs }: Attempt): Promise<void> {
    return Promise.race([ended, hangs]);
  }

  #try(place: Place, run: (open: () => Promise<Pool>) => Promise<Pool>): Promise<void> {
    if (place.pool !== undefined) return Promise.resolve();
    const { config } = place;
    const { name, directory } = config;
    const hanging = Promise.withResolvers<void>();
    const open = async (expectedId: string | undefined): Promise<Pool> => {
      const timer = setTimeout(() => {
        this.#failed(place, hangError(config));
        hanging.resolve();
      }, this.#hangLimitMs);
      try {
        return await Pool.open(name, directory, { ...config, expectedId });
      } finally {
        clearTimeout(timer);
      }
    };
    const attempt = async (): Promise<void> => {
      try {
        const known = this.#known?.idOf(name);
        const pool = await run(() => open(known));
        try {
          if (this.#isClosed) throw new HoldfastError('UNAVAILABLE', 'the daemon is stopping');
          await this.#known?.remember(name, pool.id);
        } catch (error) {
          await pool.close();
          throw error;
        }
        place.pool = pool;
        place.error = undefined;
        this.#onEvent({ type: 'opened', pool: name, directory: pool.directory, ioMode: pool.ioMode });
      } catch (thrown) {
        this.#failed(place, storageError(thrown, `opening pool '${name}' at ${directory}`));
      } finally {
        place.attempt = undefined;
      }
    };
    place.attempt ??= { ended: attempt(), hangs: hanging.promise };
    return this.#waitFor(place.attempt);
  }

  #failed(place: Place, error: HoldfastError): void {
    const { name, directory } = place.config;
    const isNews = place.error?.message !== error.message;
    place.error = error;
    if (isNews && !this.#isClosed) this.#onEvent({ type: 'failed', pool: name, directory, error });
  }
}

function unconfiguredError(name: string): HoldfastError {
  return new HoldfastError(
    'UNAVAILABLE',
    `pool '${name}' was used before and is not in the configuration: start the daemon with --pool ${name}=DIR, or, ` +
      `if that pool is gone for good and its volumes with it, "holdfast pool forget ${name} --force"`,
    { details: { pool: name } },
  );
}

function hangError({ name, directory }: PoolConfig): HoldfastError {
  return new HoldfastError(
    'UNAVAILABLE',
    `the disk of pool '${name}' does not answer at ${directory}: look at the kernel log and the disk; the pool is ` +
      'opened when it answers',
    { details: { pool: name } },
  );
}

async function requireDistinct(pools: readonly PoolConfig[], hangLimitMs: number): Promise<void> {
  for (const field of ['name', 'directory'] as const) {
    const values = pools.map((pool) => pool[field]);
    const twice = values.find((value, index) => values.indexOf(value) !== index);
    if (twice === undefined) continue;
    throw new HoldfastError('INVALID', `two pools have the ${field} '${twice}': give each its own`);
  }
  const directories = pools.map(({ directory }) => directory);
  const same = await findSamePlace(directories, hangLimitMs);
  if (same === undefined) return;
  throw new HoldfastError(
    'INVALID',
    `two pools have the same directory, named ${same.map((path) => `'${path}'`).join(' and ')}: give each its own`,
  );
}
