// Families of series whose values are read, not kept: each scrape takes one look at its source, and what the look
// does not show any more is gone from the page.

import { Counter, Gauge, type Metric, type Registry } from '@prometheus-io/client';

export type Labels = Readonly<Record<string, string>>;

export interface Series {
  readonly labels: Labels;
  readonly value: number;
}

/** As the data plane counts: bucket i holds what took less than 8 µs × 2^i and is in no earlier one, the last the rest. */
export interface Durations {
  readonly buckets: ArrayLike<number>;
  readonly sumMs: number;
}

export interface DurationSeries {
  readonly labels: Labels;
  readonly durations: Durations;
}

export class Families<Look> {
  readonly #registry: Registry;
  readonly #look: () => Promise<Look>;
  #current: Promise<Look> | undefined;

  constructor(registry: Registry, look: () => Promise<Look>) {
    this.#registry = registry;
    this.#look = look;
  }

  /** One for all families of a scrape. */
  #share(): Promise<Look> {
    if (this.#current === undefined) {
      const current = this.#look();
      this.#current = current;
      const forget = (): void => void (this.#current = undefined);
      current.then(() => setImmediate(forget), forget);
    }
    return this.#current;
  }

  counter(
    name: string,
    help: string,
    labelNames: readonly string[],
    read: (look: Look) => Iterable<Series>,
  ): void {
    const share = (): Promise<Look> => this.#share();
    new Counter({
      name,
      help,
      labelNames,
      registers: [this.#registry],
      async collect(): Promise<void> {
        const look = await share();
        this.reset();
        for (const { labels, value } of read(look)) this.inc(labels, value);
      },
    });
  }

  gauge(
    name: string,
    help: string,
    labelNames: readonly string[],
    read: (look: Look) => Iterable<Series>,
  ): void {
    const share = (): Promise<Look> => this.#share();
    new Gauge({
      name,
      help,
      labelNames,
      registers: [this.#registry],
      async collect(): Promise<void> {
        const look = await share();
        this.reset();
        for (const { labels, value } of read(look)) this.set(labels, value);
      },
    });
  }

  /** In seconds. The client's class can only count by itself, and this is counted already. */
  durations(name: string, help: string, read: (look: Look) => Iterable<DurationSeries>): void {
    const get = async (): Promise<unknown> => {
      const values = [...read(await this.#share())].flatMap((series) => histogramOf(name, series));
      return { name, help, type: 'histogram', values, aggregator: 'sum' };
    };
    this.#registry.registerMetric({ name, get, reset: () => {} } as unknown as Metric<string>);
  }
}

function histogramOf(name: string, { labels, durations }: DurationSeries) {
  const { buckets, sumMs } = durations;
  let count = 0;
  const values = Array.from(buckets, (added, index) => {
    count += added;
    const le = index === buckets.length - 1 ? '+Inf' : (8 * 2 ** index) / 1e6;
    return { labels: { ...labels, le }, value: count, metricName: `${name}_bucket` };
  });
  return [
    ...values,
    { labels, value: sumMs / 1000, metricName: `${name}_sum` },
    { labels, value: count, metricName: `${name}_count` },
  ];
}
