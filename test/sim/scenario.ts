// Scenarios: one case each, told step by step, with what it must lead to below a line of dashes. There is no
// chance in them: every delay has its mean, and nothing goes wrong but what the steps say.
//   node test/sim/scenario.ts [FILE...]     writes what happens below the line of each file, to be reviewed like code
//
// Times are rounded to half a second: a file changes when the protocol does, not when a message takes longer.

import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { EXTENT_BYTES, MIB } from '../../src/core/units.ts';
import type { FailureMode, VolumeConfig } from '../../src/replication/config.ts';
import { type BrokenRules, NOTHING_BROKEN } from '../../src/replication/rules.ts';
import type { ReplicaEvent } from '../../src/replication/ports.ts';
import { FLAG_FUA, FLUSH, READ, WRITE, ZERO } from '../../src/replication/requests.ts';
import { type Asked, describe } from './consumer.ts';
import type { Disk } from './disk.ts';
import { growVolume } from './operators.ts';
import { Random } from './random.ts';
import { drawShape } from './run.ts';
import type { SimProcess } from './process.ts';
import { type Shape, type SimNode, World } from './world.ts';

const SCENARIOS = new URL('./scenarios/', import.meta.url).pathname;
const STEP_LIMIT_MS = 60_000;
const LINE = '----';
const KINDS = { read: READ, write: WRITE, zero: ZERO, flush: FLUSH } as const;

/** Every wait is the mean one, every choice the middle one. */
class Steady extends Random {
  override unit(): number {
    return 0.5;
  }
}

function quietShape(change: Partial<Shape>): Shape {
  const still = Object.fromEntries(
    Object.keys(drawShape(1))
      .filter((name) => /Ms$|Rate$|Share$/.test(name))
      .map((name) => [name, 0]),
  );
  return {
    ...drawShape(1),
    ...still,
    copies: 3,
    extraNodes: 1,
    failureMode: 'soft',
    durability: 'writeback',
    extents: 2,
    blocks: [0],
    maxBlocks: 1,
    // The scenario asks, nobody else does.
    depth: 0,
    networkDelayMs: 1,
    storeDelayMs: 5,
    diskDelayMs: 0.5,
    clockDrift: 0,
    restoresStore: false,
    turnChance: 1,
    ...change,
  };
}

function rounded(ms: number): string {
  return `${(Math.round(ms / 500) / 2).toFixed(1)} s`;
}

export class Scenario {
  readonly #world: World;
  readonly #story: string[] = [];
  readonly #stopped = new Map<SimNode, SimProcess>();
  readonly #images = new Map<SimNode, Disk>();
  readonly #states = new Map<SimNode, string>();
  #copiedBytes = 0;
  #isRepeating = false;
  #lastErrno = -1;
  #last: VolumeConfig;

  constructor(change: Partial<Shape>, broken: BrokenRules = NOTHING_BROKEN) {
    const world = new World(1, quietShape(change), broken, true, (name) => new Steady(1, name));
    this.#world = world;
    this.#last = world.current;
    const { onChange } = world.store;
    world.store.onChange = () => {
      this.#stored(world.current);
      onChange();
    };
    world.onAnswer = (asked, errno, values) => this.#answered(asked, errno, values);
    world.onEvent = (node, event) => this.#event(node, event);
  }

  /** Everything, for whoever looks for the reason. */
  get log(): readonly string[] {
    return this.#world.log ?? [];
  }

  /** What happened, line by line. Throws the first violation of a checker. */
  play(steps: readonly string[]): readonly string[] {
    for (const step of steps) {
      this.#story.push(`> ${step}`);
      this.#step(step);
      this.#world.throwViolation();
    }
    return this.#story;
  }

  // ---- what is told

  #tell(text: string): void {
    this.#story.push(`${rounded(this.#world.schedule.nowMs).padStart(8)}  ${text}`);
  }

  #node(replicaId: string): string {
    return this.#world.nodeOf(replicaId)?.name ?? replicaId;
  }

  #stored(config: VolumeConfig): void {
    const before = this.#last;
    this.#last = config;
    const parts = [`epoch ${config.epoch}`];
    const members = config.inSync.map(({ replicaId }) => this.#node(replicaId)).join(' ');
    if (before.primary.opening !== config.primary.opening)
      parts.push(`${this.#node(config.primary.replicaId)} opens as primary`);
    if (members !== before.inSync.map(({ replicaId }) => this.#node(replicaId)).join(' '))
      parts.push(`in sync ${members}`);
    if (before.lineage !== config.lineage) parts.push('another lineage');
    if (before.attachment.number !== config.attachment.number)
      parts.push(`attachment ${config.attachment.number} on ${config.attachment.node ?? 'no node'}`);
    if (before.replicas.length !== config.replicas.length)
      parts.push(`replicas on ${config.replicas.map(({ node }) => node).join(' ')}`);
    for (const { id, node, report } of config.replicas) {
      const old = before.replicas.find((replica) => replica.id === id)?.report;
      if (report !== null && report !== undefined && old?.incarnation !== report.incarnation)
        parts.push(
          `${node} reports a reboot, ${report.descendsFrom === null ? 'of no known copy' : 'its copy is the same'}`,
        );
    }
    if (before.sizeBytes !== config.sizeBytes) parts.push(`${config.sizeBytes / MIB} MiB`);
    if (before.durability !== config.durability) parts.push(config.durability);
    if (before.failureMode !== config.failureMode) parts.push(`failure mode ${config.failureMode}`);
    if (parts.length > 1) this.#tell(`store: ${parts.join(', ')}`);
  }

  #answered(asked: Asked, errno: number, values: Int32Array | undefined): void {
    const isSame = errno === this.#lastErrno;
    if (this.#isRepeating) this.#lastErrno = errno;
    if (this.#isRepeating && isSame) return;
    const pauseMs = this.#world.schedule.nowMs - asked.operation.issuedMs;
    const pause = pauseMs < 250 ? '' : ` after ${rounded(pauseMs)}`;
    const shows = asked.kind === READ && errno === 0 ? `, shows ${[...(values ?? [])].join(' ')}` : '';
    const result = errno === 0 ? `ok${shows}` : `error ${errno}`;
    const attachment = this.#world.consumers.length > 1 ? ` of attachment ${asked.operation.attachment}` : '';
    this.#tell(`client: ${describe(asked)}${attachment}: ${result}${pause}`);
  }

  #event(node: SimNode, event: ReplicaEvent): void {
    switch (event.type) {
      case 'memberDropped':
        this.#tell(`${node.name} goes on without ${this.#node(event.replicaId)}`);
        return;
      case 'memberAdded': {
        const { copiedBytes } = this.#world.network;
        const copied = copiedBytes - this.#copiedBytes;
        this.#copiedBytes = copiedBytes;
        this.#tell(`${node.name} has ${this.#node(event.replicaId)} back, ${copied / 1024} KiB were copied`);
        return;
      }
      case 'leaseOver':
        this.#tell(`${node.name} takes over from ${this.#node(event.replicaId)}, if the store agrees`);
        return;
      case 'reconciled':
        this.#tell(`${node.name} has reconciled ${event.bytes / 1024} KiB`);
        return;
      case 'failed':
        this.#tell(`${node.name}: its disk failed (${event.what}, ${event.errno})`);
        return;
      case 'heldOut':
        this.#tell(`${node.name} holds ${this.#node(event.replicaId)} out for ${rounded(event.forMs)}`);
        return;
      case 'memberSilent':
      case 'suspected':
      case 'firstIo':
      case 'resync':
      case 'role':
    }
  }

  /** Who plays which part, when that changes. */
  #look(): void {
    for (const node of this.#world.hosts()) {
      const replica = node.process?.replica;
      const isServing = replica?.primary?.isServing === true;
      const state = isServing ? 'serves' : replica?.state === 'held' ? 'is held' : '';
      if (state !== '' && this.#states.get(node) !== state) this.#tell(`${node.name} ${state}`);
      this.#states.set(node, state);
    }
  }

  // ---- time

  #run(endMs: number, isDone: () => boolean): boolean {
    const { schedule } = this.#world;
    while (schedule.nowMs < endMs) {
      if (isDone()) return true;
      // Where every machine is off nothing happens, and time passes all the same.
      if (!schedule.step()) schedule.nowMs = endMs;
      this.#look();
      this.#world.throwViolation();
    }
    return isDone();
  }

  #until(what: string, isDone: () => boolean): void {
    if (!this.#run(this.#world.schedule.nowMs + STEP_LIMIT_MS, isDone))
      this.#tell(`NOT REACHED within ${STEP_LIMIT_MS / 1000} s: ${what}`);
  }

  // ---- steps

  #named(name: string): SimNode {
    const node = this.#world.nodes.find((one) => one.name === name);
    if (node === undefined) throw new Error(`no node is named '${name}'`);
    return node;
  }

  #step(step: string): void {
    const words = step.split(/\s+/);
    const verb = words[0] as string;
    if (verb === 'repeat') this.#repeat(words);
    else if (verb in KINDS) this.#ask(KINDS[verb as keyof typeof KINDS], words);
    else if (verb === 'wait') this.#wait(step, words);
    else if (verb === 'cut' || verb === 'mend') this.#cut(verb, words);
    else if (verb === 'links') this.#break(words);
    else if (verb === 'store') this.#store(words);
    else if (verb === 'disk') this.#disk(words);
    else if (verb === 'frames') this.#frames(words);
    else if (verb === 'client') this.#client(words);
    else if (verb === 'replica') this.#replica(words);
    else if (verb === 'volume') this.#grow(words);
    else if (verb === 'check') this.#check();
    else this.#machine(verb, words);
  }

  /** links break [between NODE NODE] */
  #break(words: readonly string[]): void {
    const { network } = this.#world;
    const [one, other] = words.filter((word) => /^node\d$/.test(word)).map((name) => this.#named(name).index);
    if (one === undefined || other === undefined) network.breakSome(1);
    else network.breakBetween(one, other);
  }

  /** write BLOCK [COUNT] [fua] */
  #ask(kind: number, words: readonly string[]): void {
    const flags = words.includes('fua') ? FLAG_FUA : 0;
    const count = Number(words[2]) > 0 ? Number(words[2]) : 1;
    const consumer = this.#world.consumers.at(-1);
    consumer?.ask(kind, kind === FLUSH ? 0 : Number(words[1]), kind === FLUSH ? 0 : count, flags);
  }

  /** repeat write BLOCK every N ms for S s: one after the other. Told is what differs from the answer before. */
  #repeat(words: readonly string[]): void {
    const { schedule, consumers } = this.#world;
    const everyMs = Number(words[4]);
    const endMs = schedule.nowMs + Number(words[7]) * 1000;
    this.#isRepeating = true;
    while (schedule.nowMs < endMs) {
      if (consumers.every(({ asked }) => asked.length === 0)) this.#step(`${words[1]} ${words[2]}`);
      this.#run(Math.min(schedule.nowMs + everyMs, endMs), () => false);
    }
    this.#isRepeating = false;
    this.#lastErrno = -1;
  }

  /** What a dead daemon's kernel still waits for does not count. */
  #isAsked(): boolean {
    return this.#world.consumers.some(({ asked, frontend }) => frontend !== undefined && asked.length > 0);
  }

  #wait(step: string, words: readonly string[]): void {
    const world = this.#world;
    const { schedule } = world;
    const names = words.filter((word) => /^node\d$/.test(word));
    if (words[2] === 's' || words[2] === 'ms') {
      const endMs = schedule.nowMs + Number(words[1]) * (words[2] === 's' ? 1000 : 1);
      this.#run(endMs, () => false);
    } else if (step === 'wait for answers') this.#until('every request is answered', () => !this.#isAsked());
    else if (step.startsWith('wait until primary is'))
      this.#until(step, () => this.#named(names[0] as string).process?.replica.primary?.isServing === true);
    else if (step.startsWith('wait until in sync'))
      this.#until(step, () => {
        const members = world.current.inSync.map(({ replicaId }) => this.#node(replicaId));
        return members.length === names.length && names.every((name) => members.includes(name));
      });
    else if (step.startsWith('wait until held'))
      this.#until(step, () => names.every((name) => this.#named(name).process?.replica.state === 'held'));
    else throw new Error(`this cannot be waited for: '${step}'`);
  }

  /** cut A from B (both ways), cut A to B (one way), cut A from store; mend: everything. */
  #cut(verb: string, words: readonly string[]): void {
    const { network, store } = this.#world;
    if (verb === 'mend') {
      network.mendAll();
      store.cutOff.clear();
      return;
    }
    const from = this.#named(words[1] as string).index;
    if (words[3] === 'store') {
      store.cutOff.add(from);
      return;
    }
    const others = words[3] === 'all' ? this.#world.nodes : [this.#named(words[3] as string)];
    for (const { index } of others) {
      if (index === from) continue;
      network.cut(from, index);
      if (words[2] === 'from') network.cut(index, from);
    }
  }

  /** store down | up | forgets to answer | put back to epoch N [above all revisions] */
  #store(words: readonly string[]): void {
    const { store } = this.#world;
    if (words[1] === 'down') store.isDown = true;
    else if (words[1] === 'up') store.isDown = false;
    else if (words[1] === 'forgets') store.losesNextReply = true;
    else {
      const old = store.past.findLast(({ config }) => config.epoch === Number(words[5]));
      if (old === undefined) throw new Error(`the store never held epoch ${words[5]}`);
      store.restore(old, words.includes('above'));
    }
  }

  /** disk of NODE fails reads|writes|flushes, is full, is N times slower, works */
  #disk(words: readonly string[]): void {
    const node = this.#named(words[2] as string);
    const kinds = { reads: 'data', writes: 'data', flushes: 'flush', full: 'space' } as const;
    const kind = kinds[words[4] as keyof typeof kinds];
    node.slowFactor = words[5] === 'times' ? Number(words[4]) : 1;
    node.errorsLeft = 0;
    if (kind !== undefined) {
      node.errorKind = kind;
      node.errorsLeft = kind === 'space' ? Number.POSITIVE_INFINITY : 1;
    }
    const world = this.#world;
    const copies = world.nodes.filter(({ replicaId }) =>
      world.current.replicas.some(({ id }) => id === replicaId),
    );
    world.isEveryDiskFull = copies.every((copy) => copy.errorKind === 'space' && copy.errorsLeft > 0);
    world.wasEveryDiskFull ||= world.isEveryDiskFull;
  }

  /** frames get lost|repeated|reordered|damaged ; frames pass */
  #frames(words: readonly string[]): void {
    const { network } = this.#world;
    const of = (kind: string): number => (words[2] === kind ? 1 : 0);
    network.shape = {
      ...network.shape,
      lossRate: of('lost'),
      repeatRate: of('repeated'),
      reorderRate: of('reordered'),
      flipRate: of('damaged'),
    };
  }

  /** client moves to NODE | dies | starts */
  #client(words: readonly string[]): void {
    const consumer = this.#world.consumers.at(-1);
    if (words[1] === 'dies') consumer?.kill();
    else if (words[1] === 'starts') consumer?.start();
    else this.#world.move(this.#named(words.at(-1) as string));
  }

  /** replica added on NODE | removed from NODE | readmitted on NODE | grows on NODE | wanted on NODE (an old one) | forced on NODE */
  #replica(words: readonly string[]): void {
    const node = this.#named(words[3] as string);
    if (words[1] === 'added') this.#world.addReplica(node, 0);
    else if (words[1] === 'readmitted') {
      const primary = this.#world.nodeOf(this.#world.current.primary.replicaId).process;
      if (primary?.replica.readmit(node.replicaId) !== true) this.#tell('it is not held out');
    } else if (words[1] === 'wanted') this.#world.takeUp(node, true);
    else if (words[1] === 'forced') this.#world.force(node);
    else if (words[1] === 'grows') this.#world.growCopy(node, this.#world.current.sizeBytes);
    else this.#world.removeReplica(node, 100);
  }

  /** volume grows [without NODE...]: the copies by one extent, then the record */
  #grow(words: readonly string[]): void {
    const world = this.#world;
    const sizeBytes = world.current.sizeBytes + EXTENT_BYTES;
    for (const node of world.hosts()) if (!words.includes(node.name)) world.growCopy(node, sizeBytes);
    world.store.change((config) => growVolume(config, sizeBytes));
  }

  #kill(node: SimNode): void {
    const old = this.#world.stop(node);
    if (old !== undefined) this.#stopped.set(node, old);
  }

  /** kill|stop|start|pause|resume NODE, power off|on NODE..., hand over to NODE, image|put back NODE */
  #machine(verb: string, words: readonly string[]): void {
    const world = this.#world;
    const names = words.filter((word) => /^node\d$/.test(word));
    for (const name of names) {
      const node = this.#named(name);
      switch (verb) {
        case 'kill':
          this.#kill(node);
          break;
        case 'stop':
          node.process?.stop(() => world.schedule.after(0, () => this.#kill(node)));
          break;
        case 'start':
          world.restart(node, this.#stopped.get(node), 0);
          break;
        case 'pause':
          node.pause();
          break;
        case 'resume':
          node.resume();
          break;
        case 'power':
          if (words[1] === 'off') world.powerOff(node);
          else world.powerOn(node);
          break;
        case 'hand': {
          const primary = world.nodeOf(world.current.primary.replicaId).process;
          if (primary?.handOver(node.replicaId) !== true) this.#tell('the primary cannot hand over now');
          break;
        }
        case 'image':
          this.#images.set(node, node.disk.image());
          break;
        case 'put': {
          // In its place: the next time it is the disk of before.
          const { disk } = node;
          node.disk = this.#images.get(node) ?? disk;
          this.#images.set(node, disk);
          break;
        }
        default:
          throw new Error(`no step is named '${words.join(' ')}'`);
      }
    }
    if (names.length === 0) throw new Error(`no step is named '${words.join(' ')}'`);
  }

  /** All in-sync copies are equal and hold what the client was told. */
  #check(): void {
    this.#until('nothing is left to do', () => {
      const isIdle = this.#world.hosts().some(({ process }) => process?.replica.primary?.isIdle === true);
      return !this.#isAsked() && isIdle;
    });
    this.#world.checkEquality();
    const members = this.#world.inSyncNodes().map(({ name }) => name);
    this.#tell(`equal: ${members.join(' ')}`);
  }
}

// ---- files

export interface ScenarioFile {
  readonly name: string;
  /** What is above the line, comments and all. */
  readonly head: string;
  readonly expected: string;
}

export function scenarioFiles(): ScenarioFile[] {
  const names = readdirSync(SCENARIOS).filter((name) => name.endsWith('.txt'));
  return names.toSorted().map((name) => {
    const [head = '', expected = ''] = readFileSync(join(SCENARIOS, name), 'utf8').split(`${LINE}\n`);
    return { name, head, expected };
  });
}

/** The first line that is no comment may change the cluster: 'cluster copies=2 failureMode=hard'. */
export function playFile({ head }: ScenarioFile, broken?: BrokenRules): string {
  const lines = head.split('\n').map((line) => line.trim());
  const steps = lines.filter((line) => line !== '' && !line.startsWith('#'));
  const change: Record<string, unknown> = {};
  if (steps[0]?.startsWith('cluster ') === true)
    for (const part of (steps.shift() as string).split(/\s+/).slice(1)) {
      const [name = '', value = ''] = part.split('=');
      change[name] = Number.isNaN(Number(value)) ? (value as FailureMode) : Number(value);
    }
  return `${new Scenario(change as Partial<Shape>, broken).play(steps).join('\n')}\n`;
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const wanted = process.argv.slice(2);
  for (const file of scenarioFiles()) {
    if (wanted.length > 0 && !wanted.some((name) => file.name.includes(name))) continue;
    try {
      writeFileSync(join(SCENARIOS, file.name), `${file.head}${LINE}\n${playFile(file)}`);
    } catch (error) {
      console.log(`${file.name}: ${String(error)}`);
      process.exitCode = 1;
    }
  }
}
