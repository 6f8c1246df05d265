// What goes wrong, and what people do meanwhile: each kind at its own rate and from its own stream of chance, so
// that a kind taken away leaves the others where they were.

import type { VolumeConfig } from '../../src/replication/config.ts';
import { decodeSuperblockSlots } from '../../src/replication/layout/superblock.ts';
import type { Disk } from './disk.ts';
import { changeFailureMode, MAX_REPLICAS, weakenDurability } from './operators.ts';
import { Random } from './random.ts';
import type { SimNode, World } from './world.ts';

/** At most so much time's events are of one turn of a machine that then stands still. */
const GATHERED_MS = 20;

/** Lets things go wrong until everything is mended. */
export function arrangeFaults(world: World): void {
  new Faults(world).arrange();
}

/** Of a boot before the one that the store knows: what was written since is not in it, and its superblock tells. */
function isOlderBoot(image: Disk, { replicas }: VolumeConfig, replicaId: string): boolean {
  const { superblock } = decodeSuperblockSlots(image.superblock.cache);
  const known = replicas.find(({ id }) => id === replicaId)?.bootId ?? null;
  return (
    known !== null &&
    ![superblock.bootId, superblock.storedBootId, ...superblock.earlierBootIds].includes(known)
  );
}

class Faults {
  readonly #world: World;

  constructor(world: World) {
    this.#world = world;
  }

  arrange(): void {
    const { shape } = this.#world;
    this.#every('kill', shape.killMs, (random) => this.#world.kill(this.#node(random)));
    this.#every('power', shape.powerCutMs, (random) => this.#world.cutPower([this.#node(random)]));
    this.#every('allPower', shape.allPowerCutMs, () => this.#world.cutPower(this.#world.nodes));
    this.#every('stop', shape.cleanStopMs, (random) => this.#stop(random));
    this.#every('pause', shape.pauseMs, (random) => this.#pause(random));
    this.#every('partition', shape.partitionMs, (random) => this.#partition(random));
    this.#every('links', shape.linkBreakMs, (random) => {
      this.#world.fault('connections break');
      this.#world.network.breakSome(random.pick([0.1, 0.5, 1]));
    });
    this.#arrangeStore();
    this.#arrangeDisks();
    this.#arrangePeople();
    this.#every('frontend', shape.frontendKillMs, (random) => this.#killFrontend(random));
  }

  /** `meanMs` 0: never. */
  #every(kind: string, meanMs: number, run: (random: Random) => void): void {
    if (meanMs === 0) return;
    const world = this.#world;
    const random = new Random(world.seed, `fault ${kind}`);
    const next = (): void => {
      if (world.isHealed) return;
      run(random);
      world.schedule.after(random.wait(meanMs), next);
    };
    world.schedule.after(random.wait(meanMs), next);
  }

  #node(random: Random): SimNode {
    const world = this.#world;
    const isPrimary = random.chance(0.5);
    const other = random.pick(world.hosts());
    return isPrimary ? world.nodeOf(world.current.primary.replicaId) : other;
  }

  /** As for an upgrade; half of the time the machine reboots as well. A daemon whose disk hangs is killed. */
  #stop(random: Random): void {
    const world = this.#world;
    const node = this.#node(random);
    const isReboot = random.chance(0.5);
    const { process } = node;
    if (!node.isUp || node.isPaused || process === undefined) return;
    const end = (): void => {
      if (node.process !== process) return;
      if (isReboot) world.cutPower([node]);
      else world.kill(node);
    };
    if (!process.stop(() => world.schedule.after(0, end))) return;
    world.fault(`${node.name}'s daemon stops`);
    world.schedule.after(5000, end);
  }

  #pause(random: Random): void {
    const node = this.#node(random);
    const lengthMs = random.pick([50, 500, 2000, 4000, 8000]) * random.between(0.5, 1.5);
    if (!node.isUp || node.isPaused) return;
    this.#world.fault(`${node.name} stands still`);
    // Half of them between two turns. From the draw before, so that there is no further one.
    node.pause(Math.max(0, 2 * (lengthMs % 1) - 1) * GATHERED_MS);
    this.#world.schedule.after(lengthMs, () => node.resume());
  }

  #partition(random: Random): void {
    const world = this.#world;
    const one = this.#node(random).index;
    const cuts: [number, number][] = [];
    const isOneWay = random.chance(0.4);
    const isWhole = random.chance(0.5);
    for (let other = 0; other < world.nodes.length; other++) {
      if (other === one || (!isWhole && random.chance(0.5))) continue;
      if (!isOneWay || random.chance(0.5)) cuts.push([one, other]);
      if (!isOneWay || random.chance(0.5)) cuts.push([other, one]);
    }
    world.fault(`the network is cut: ${cuts.map(([from, to]) => `${from}>${to}`).join(' ')}`);
    for (const [from, to] of cuts) world.network.cut(from, to);
    const losesStore = random.chance(0.3);
    if (losesStore) world.store.cutOff.add(one);
    world.schedule.after(random.pick([100, 800, 3000, 6000]) * random.between(0.5, 1.5), () => {
      for (const [from, to] of cuts) world.network.mend(from, to);
      if (losesStore) world.store.cutOff.delete(one);
    });
  }

  // ---- the store

  #arrangeStore(): void {
    const { shape, store, schedule } = this.#world;
    this.#every('storeDown', shape.storeDownMs, (random) => {
      if (store.isDown) return;
      this.#world.fault('the store is down');
      store.isDown = true;
      schedule.after(random.wait(2500), () => {
        store.isDown = false;
      });
    });
    this.#every('storeCut', shape.storeCutMs, (random) => {
      const node = this.#node(random).index;
      this.#world.fault(`node${node} does not reach the store`);
      store.cutOff.add(node);
      schedule.after(random.wait(2500), () => store.cutOff.delete(node));
    });
    this.#every('storeSlow', shape.storeSlowMs, (random) => {
      this.#world.fault('the store is slow');
      store.delayMs = random.pick([100, 400, 1500]);
      schedule.after(random.wait(2500), () => {
        store.delayMs = shape.storeDelayMs;
      });
    });
  }

  // ---- disks

  #arrangeDisks(): void {
    const { shape, schedule } = this.#world;
    this.#every('slowDisk', shape.slowDiskRate, (random) => {
      const node = this.#node(random);
      this.#world.fault(`${node.name}'s disk is slow`);
      node.slowFactor = random.pick([10, 100, 1000]);
      schedule.after(random.wait(2000), () => {
        node.slowFactor = 1;
      });
    });
    this.#every('diskError', shape.diskErrorMs, (random) => {
      const node = this.#node(random);
      const kind = random.pick(['data', 'data', 'flush'] as const);
      const count = 1 + random.below(3);
      if (!this.#maySpoil()) return;
      this.#world.fault(`${node.name}'s disk fails (${kind})`);
      node.errorKind = kind;
      node.errorsLeft = count;
    });
    this.#every('metaError', shape.metaErrorMs, (random) => {
      const node = this.#node(random);
      const count = 1 + random.below(3);
      if (!this.#maySpoil()) return;
      this.#world.fault(`${node.name}'s disk fails (meta)`);
      node.errorKind = 'meta';
      node.errorsLeft = count;
    });
    this.#arrangeImages();
    this.#every('full', shape.fullMs, (random) => {
      const world = this.#world;
      const lengthMs = random.wait(shape.fullForMs);
      if (world.nodes.some((node) => node.errorsLeft !== 0)) return;
      world.fault('every disk is full');
      world.fillDisks(true);
      if (shape.fullSparesRate > 0 && random.chance(shape.fullSparesRate)) {
        const members = world.inSyncNodes();
        for (const node of world.nodes) if (!members.includes(node)) node.errorsLeft = 0;
      }
      schedule.after(lengthMs, () => {
        if (!world.isHealed) world.fillDisks(false);
      });
    });
    this.#every('space', shape.spaceMs, (random) => {
      const world = this.#world;
      const node = this.#node(random);
      const lengthMs = random.wait(1500);
      if (!this.#maySpoil()) return;
      world.fault(`${node.name}'s disk is full`);
      node.errorKind = 'space';
      node.errorsLeft = Number.POSITIVE_INFINITY;
      schedule.after(lengthMs, () => {
        if (node.errorKind === 'space' && !world.isHealed) node.errorsLeft = 0;
      });
    });
  }

  /** Somebody images disks, and at a power cut puts one back that is older than the boot that the store knows. */
  #arrangeImages(): void {
    const world = this.#world;
    const images = new Map<SimNode, { readonly disk: Disk; readonly replicaId: string }>();
    this.#every('image', world.shape.imageMs, (random) => {
      const node = this.#node(random);
      const isTaken = random.chance(0.3);
      const image = images.get(node);
      if (!node.isUp || node.isPaused) return;
      if (image === undefined || image.replicaId !== node.replicaId || isTaken) {
        images.set(node, { disk: node.disk.image(), replicaId: node.replicaId });
        return;
      }
      const { inSync } = world.current;
      // Nor one that a swap on its way leaves out.
      const named = world.surelyInSync();
      const isWhole = inSync.some(({ replicaId, incarnation }) => {
        const other = world.nodeOf(replicaId);
        const isJudged = !other.disk.isImage || other.process?.replica.state !== 'opening';
        return (
          other !== node &&
          named.includes(other) &&
          isJudged &&
          other.process?.replica.incarnation === incarnation
        );
      });
      if (!isWhole || !isOlderBoot(image.disk, world.current, node.replicaId)) return;
      world.cutPower([node]);
      world.fault(`${node.name} gets an old image of its disk`);
      node.disk = image.disk.image();
    });
  }

  /** The last good copy is spared: what has no copy left cannot be judged. */
  #maySpoil(): boolean {
    const world = this.#world;
    return (
      world.current.replicas.length >= 3 &&
      world.inSyncNodes().filter((node) => node.isUp).length >= 2 &&
      world.nodes.every((node) => node.errorsLeft === 0)
    );
  }

  // ---- people

  /** At once, or in the moment after the record's next change, when everybody is busy with that one. */
  #atWorst(random: Random, run: () => void): void {
    const world = this.#world;
    const waitMs = random.pick([0, 0, 1, 10]);
    if (random.chance(0.5)) run();
    else
      world.store.afterNextChange(() =>
        world.schedule.after(waitMs, () => {
          if (!world.isHealed) run();
        }),
      );
  }

  #arrangePeople(): void {
    const world = this.#world;
    const { shape } = world;
    this.#every('move', shape.moveMs, () => this.#move());
    this.#every('handOver', shape.handOverMs, (random) => this.#handOver(random));
    this.#every('burst', shape.burstMs, (random) => {
      let atMs = 0;
      for (let count = 2 + random.below(5); count > 0; count--) {
        const isMove = random.chance(0.3);
        world.schedule.after(atMs, () => {
          if (world.isHealed) return;
          if (isMove) this.#move();
          else this.#handOver(random);
        });
        atMs += random.pick([0, 5, 50, 400]);
      }
    });
    this.#every('failureMode', shape.failureModeMs, (random) => {
      const mode = random.pick(['soft', 'hard', 'alwayson', 1, 2] as const);
      this.#atWorst(random, () => {
        world.fault(`failure mode ${mode}`);
        world.store.change((config) => changeFailureMode(config, mode));
      });
    });
    this.#every('grow', shape.growMs, (random) => {
      const stepMs = random.pick([1, 20, 200]);
      const isCareless = random.chance(0.4);
      this.#atWorst(random, () =>
        world.grow(
          () => random.wait(stepMs),
          () => isCareless && random.chance(0.4),
        ),
      );
    });
    this.#every('force', shape.forceMs, (random) => {
      // Mostly one that lacks something.
      const members = world.inSyncNodes();
      const named = world.current.replicas.filter(({ needsFullCopy }) => !needsFullCopy);
      const behind = named.map(({ id }) => world.nodeOf(id)).filter((node) => !members.includes(node));
      if (behind.length === 0 && random.chance(0.95)) return;
      const node = random.pick(behind.length > 0 ? behind : world.hosts());
      const { process } = node;
      // Of those that somebody would choose: it can be seen, is not about to be closed for good, and was in sync once.
      const isFit = node.isUp && !node.isPaused && !node.disk.isMarked && process?.replica.state !== 'gone';
      const wasInSync = process?.replica.superblock.lastInSyncIncarnation !== null;
      if (!isFit || process?.replica.copy.hasFailed !== false || !wasInSync) return;
      for (const other of world.force(node))
        world.schedule.after(500 + random.wait(1500), () => world.takeUp(other, random.chance(0.8)));
    });
    this.#every('weaken', shape.weakenMs, (random) =>
      this.#atWorst(random, () => {
        if (world.current.durability === 'writeback') return;
        world.fault('durability writeback');
        world.history.becomesWriteback();
        world.store.change(weakenDurability);
      }),
    );
    this.#every('add', shape.addReplicaMs, (random) =>
      this.#atWorst(random, () => {
        const free = world.nodes.filter((node) => node.isUp && !node.isHost);
        if (free.length === 0 || world.current.replicas.length >= MAX_REPLICAS) return;
        world.addReplica(random.pick(free), random.wait(300) * (random.chance(0.5) ? 1 : -1));
      }),
    );
    this.#every('remove', shape.removeReplicaMs, (random) =>
      this.#atWorst(random, () => world.removeReplica(random.pick(world.hosts()), random.wait(800))),
    );
  }

  #move(): void {
    this.#world.fault('the volume moves');
    this.#world.move();
  }

  #handOver(random: Random): void {
    const world = this.#world;
    const { inSync, primary } = world.current;
    const target = random.pick(inSync).replicaId;
    const node = world.nodeOf(primary.replicaId);
    if (target === primary.replicaId || node.isPaused || node.process?.isAlive() !== true) return;
    if (node.process.handOver(target)) world.fault(`handover from ${node.name} to ${target}`);
  }

  #killFrontend(random: Random): void {
    const world = this.#world;
    const consumer = world.consumers.at(-1);
    const waitMs = random.wait(800);
    if (consumer?.frontend === undefined || consumer.node.isPaused) return;
    world.fault('the consumer’s daemon is killed');
    consumer.kill();
    world.schedule.after(waitMs, () => consumer.start());
  }
}
