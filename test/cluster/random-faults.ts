// Faults in a row, of any kind, at any node, at any time, under a checked load: what nobody thought of. From a seed, as
// far as real machines follow one: it fixes which faults come, not what they meet.

import { setTimeout as delay } from 'node:timers/promises';
import type { ClusterNode, TestCluster } from './cluster.ts';

export interface RandomFault {
  readonly text: string;
  /** Its repair needs etcd: a daemon that does not reach it does not start. */
  readonly needsStore?: boolean;
  strike(): Promise<void>;
  repair(): Promise<void>;
}

const SHORTEST_MS = 100;
const LONGEST_MS = 7000;

/** 0 up to 1, without it (mulberry32). */
export function randomOf(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class RandomFaults {
  readonly #cluster: TestCluster;
  readonly #volume: string;
  readonly #random: () => number;
  /** Its daemon is not killed: the client is there, and an export ends with its daemon. */
  readonly #spared: () => ClusterNode;

  constructor(cluster: TestCluster, volume: string, spared: () => ClusterNode, random: () => number) {
    this.#cluster = cluster;
    this.#volume = volume;
    this.#spared = spared;
    this.#random = random;
  }

  next(): RandomFault {
    const makers = [
      () => this.#kill(),
      () => this.#kill(),
      () => this.#freeze(),
      () => this.#freeze(),
      () => this.#isolate(),
      () => this.#cut(),
      () => this.#cutOneWay(),
      () => this.#cutFromStore(),
      () => this.#reset(),
      () => this.#freezeStore(),
      () => this.#killStore(),
      () => this.#move(),
    ];
    return this.#pick(makers)();
  }

  /** How long it lasts. */
  durationMs(): number {
    // Short ones as often as long ones.
    return SHORTEST_MS * (LONGEST_MS / SHORTEST_MS) ** this.#random();
  }

  #pick<T>(items: readonly T[]): T {
    const item = items[Math.floor(this.#random() * items.length)];
    if (item === undefined) throw new Error('there is nothing to pick from');
    return item;
  }

  #anyNode(): ClusterNode {
    return this.#pick(this.#cluster.nodes);
  }

  #mortalNode(): ClusterNode {
    return this.#pick(this.#cluster.nodes.filter((node) => node !== this.#spared()));
  }

  #pair(): [string, string] {
    const one = this.#anyNode();
    return [one.name, this.#pick(this.#cluster.nodes.filter((node) => node !== one)).name];
  }

  #kill(): RandomFault {
    const node = this.#mortalNode();
    return {
      text: `SIGKILL to ${node.name}`,
      needsStore: true,
      strike: () => node.kill(),
      repair: () => node.start(),
    };
  }

  #freeze(): RandomFault {
    const node = this.#anyNode();
    return {
      text: `SIGSTOP to ${node.name}`,
      strike: () => Promise.resolve(node.freeze()),
      repair: () => Promise.resolve(node.thaw()),
    };
  }

  #isolate(): RandomFault {
    const node = this.#anyNode();
    const how = this.#pick(['silent', 'refused'] as const);
    return this.#network(`${node.name} is cut off (${how})`, () =>
      this.#cluster.network.isolate(node.name, how),
    );
  }

  #cut(): RandomFault {
    const [one, other] = this.#pair();
    const how = this.#pick(['silent', 'refused'] as const);
    return this.#network(`no way between ${one} and ${other} (${how})`, () =>
      this.#cluster.network.cut(one, other, how),
    );
  }

  #cutOneWay(): RandomFault {
    const [from, to] = this.#pair();
    return this.#network(`no way from ${from} to ${to}`, () => this.#cluster.network.cutOneWay(from, to));
  }

  #cutFromStore(): RandomFault {
    const node = this.#anyNode();
    return this.#network(`no way between ${node.name} and etcd`, () => this.#cluster.cutFromStore(node.name));
  }

  #network(text: string, strike: () => Promise<void>): RandomFault {
    return { text, strike, repair: () => this.#cluster.network.heal() };
  }

  #reset(): RandomFault {
    const [one, other] = this.#pair();
    return {
      text: `resets between ${one} and ${other}`,
      strike: () => this.#cluster.network.reset(one, other),
      repair: () => Promise.resolve(),
    };
  }

  #freezeStore(): RandomFault {
    const { etcd } = this.#cluster;
    return {
      text: 'SIGSTOP to etcd',
      strike: () => Promise.resolve(etcd.freeze()),
      repair: () => Promise.resolve(etcd.thaw()),
    };
  }

  #killStore(): RandomFault {
    const { etcd } = this.#cluster;
    return { text: 'SIGKILL to etcd', strike: () => etcd.kill(), repair: () => etcd.start() };
  }

  /** It may be refused: then nothing moved. */
  #move(): RandomFault {
    const target = this.#anyNode();
    return {
      text: `volume move to ${target.name}`,
      strike: async () => void (await this.#spared().run('volume', 'move', this.#volume, target.name)),
      repair: () => Promise.resolve(),
    };
  }
}

/** One, or two that overlap. All ways are open and all daemons run when it returns what was done. */
export async function strikeAtRandom(faults: RandomFaults, random: () => number): Promise<string> {
  const first = faults.next();
  const second = random() < 0.3 ? faults.next() : undefined;
  await first.strike();
  await delay(faults.durationMs());
  // A second one of the same kind would find nothing to do, or undo the first one's repair.
  if (second !== undefined && second.text.split(' ')[0] !== first.text.split(' ')[0]) {
    await second.strike();
    await delay(faults.durationMs());
    const [sooner, later] = first.needsStore === true ? [second, first] : [first, second];
    await sooner.repair();
    await delay(faults.durationMs() / 4);
    await later.repair();
    return `${first.text}, then ${second.text}`;
  }
  await first.repair();
  return first.text;
}
