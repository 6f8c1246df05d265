import { describe, expect, test } from 'vitest';
import type { StoredConfig } from '../../src/replication/config.ts';
import {
  FRAME_HERE,
  FRAME_REPLY,
  FRAME_REQUEST,
  FRAME_WAITING,
  FRAME_WELCOME,
  FrameFields,
  OFFSET,
  SEQUENCE,
} from '../../src/replication/frames.ts';
import { Frontend, type FrontendPorts } from '../../src/replication/frontend.ts';
import { NONE, RequestTable, WRITE } from '../../src/replication/requests.ts';
import { OTHER, OWN, replicaOn } from './replica-world.ts';

/** A frontend, its store and the primary in a test's hands. */
class FrontendWorld implements FrontendPorts {
  readonly table = new RequestTable(16);
  readonly core: Frontend;
  nowMilliseconds = 1000;
  stored: StoredConfig = {
    revision: 1,
    config: {
      volumeId: 'v',
      sizeBytes: 2 ** 22,
      lineage: 'l',
      epoch: 3,
      primary: { replicaId: OWN, opening: 'first' },
      inSync: [OWN, OTHER].map((replicaId) => ({ replicaId, incarnation: null })),
      replicas: [replicaOn(OWN), replicaOn(OTHER)],
      attachment: { number: 1, node: 'user' },
      durability: 'writeback',
      failureMode: 'hard',
    },
  };
  /** Who was connected with, link by link. */
  readonly connected: string[] = [];
  /** Tags sent, by link. */
  readonly sent = new Map<number, number[]>();
  readonly replies: { readonly request: number; readonly errno: number }[] = [];
  /** Signs of life of the frontend. */
  hereCount = 0;
  open = NONE;
  /** The primary gives signs of life while it answers nothing. */
  isAlive = true;

  constructor(giveUpAfterMs?: number) {
    this.core = new Frontend(this.table, this, {
      volumeId: 'v',
      node: 'user',
      attachment: 1,
      firstSession: 1,
      ...(giveUpAfterMs === undefined ? {} : { giveUpAfterMs }),
    });
    this.pass(300);
  }

  pass(milliseconds: number): void {
    const endMs = this.nowMilliseconds + milliseconds;
    while (this.nowMilliseconds < endMs) {
      this.nowMilliseconds += 100;
      if (this.isAlive && this.open !== NONE && this.nowMilliseconds % 500 === 0) this.frame(FRAME_WAITING);
      this.core.tick();
    }
  }

  frame(type: number, tag = 0, link = this.open): void {
    const fields = new FrameFields();
    fields.type = type;
    fields.numbers[SEQUENCE] = tag;
    this.core.frame(link, fields, NONE);
  }

  write(): number {
    const request = this.table.take();
    this.table.kind[request] = WRITE;
    this.table.offsetBytes[request] = request * 4096;
    this.table.lengthBytes[request] = 4096;
    this.core.admit(request);
    return request;
  }

  nowMs(): number {
    return this.nowMilliseconds;
  }

  readConfig(): void {
    this.core.configRead(this.stored);
  }

  connect(_node: string, replicaId: string): number {
    this.connected.push(replicaId);
    this.open = this.connected.length;
    return this.open;
  }

  sendControl(link: number): void {
    // The primary welcomes it once this call is over: at the next tick.
    this.welcome = () => {
      const { epoch, primary, sizeBytes } = this.stored.config;
      this.core.control(link, FRAME_WELCOME, { kind: 'session', epoch, opening: primary.opening, sizeBytes });
    };
  }

  welcome: () => void = () => undefined;

  sendFrame(link: number, fields: FrameFields): void {
    if (fields.type === FRAME_HERE) {
      this.hereCount += 1;
      return;
    }
    expect(fields.type).toBe(FRAME_REQUEST);
    expect(fields.numbers[OFFSET]).toBe((fields.numbers[SEQUENCE] as number) * 4096);
    this.sent.set(link, [...(this.sent.get(link) ?? []), fields.numbers[SEQUENCE] as number]);
  }

  closeLink(link: number): void {
    if (this.open === link) this.open = NONE;
  }

  reply(request: number, errno: number): void {
    this.replies.push({ request, errno });
    this.table.release(request);
  }

  takePayload(): void {
    throw new Error('nothing is read here');
  }

  release(): void {
    throw new Error('nothing comes with a payload here');
  }
}

function connected(giveUpAfterMs?: number): FrontendWorld {
  const world = new FrontendWorld(giveUpAfterMs);
  world.welcome();
  expect(world.core.isOpen).toBe(true);
  return world;
}

describe('a frontend whose requests wait', () => {
  test('sends them once, as long as the primary is heard of', () => {
    const world = connected();
    const request = world.write();
    world.pass(10 * 60_000);
    expect(world.connected).toEqual([OWN]);
    expect(world.sent).toEqual(new Map([[1, [request]]]));
    // It says each time that it is there.
    expect(world.hereCount).toBe(10 * 60 * 2);
    world.frame(FRAME_REPLY, request);
    expect(world.replies).toEqual([{ request, errno: 0 }]);
  });

  test('comes back when nothing is heard for three seconds', () => {
    const world = connected();
    const request = world.write();
    world.isAlive = false;
    world.pass(2500);
    expect(world.connected).toHaveLength(1);
    world.pass(1500);
    world.welcome();
    expect(world.connected).toEqual([OWN, OWN]);
    expect(world.sent.get(2)).toEqual([request]);
  });

  test('goes to another primary, however alive the old one is; a new epoch of the same one is no reason', () => {
    const world = connected();
    world.write();
    const { config } = world.stored;
    world.stored = { revision: 2, config: { ...config, epoch: 4 } };
    world.pass(5000);
    expect(world.connected).toEqual([OWN]);
    const primary = { replicaId: OTHER, opening: 'second' };
    world.stored = { revision: 3, config: { ...config, epoch: 5, primary } };
    world.pass(1500);
    expect(world.connected).toEqual([OWN, OTHER]);
  });

  test('does not take the opening for another primary that the one it came to has written since', () => {
    const world = new FrontendWorld();
    const { config } = world.stored;
    world.stored = {
      revision: 2,
      config: { ...config, epoch: 4, primary: { ...config.primary, opening: 'mine' } },
    };
    world.welcome();
    const request = world.write();
    world.pass(5000);
    expect(world.sent).toEqual(new Map([[1, [request]]]));
    const primary = { replicaId: OTHER, opening: 'second' };
    world.stored = { revision: 3, config: { ...config, epoch: 5, primary } };
    world.pass(1500);
    expect(world.connected).toEqual([OWN, OTHER]);
  });

  test('stays with a primary that had a later opening than the store showed, when its epoch rises', () => {
    const world = new FrontendWorld();
    const { config } = world.stored;
    const primary = { ...config.primary, opening: 'mine' };
    world.stored = { revision: 2, config: { ...config, epoch: 4, primary } };
    world.welcome();
    const request = world.write();
    world.stored = { revision: 3, config: { ...config, epoch: 5, primary } };
    world.pass(5000);
    expect(world.connected).toEqual([OWN]);
    expect(world.sent).toEqual(new Map([[1, [request]]]));
  });

  test('hears nothing more of a request that it gave up: its name is another one’s by then', () => {
    const world = connected(2000);
    const late = world.write();
    world.pass(2500);
    expect(world.replies).toEqual([{ request: late, errno: 5 }]);
    const next = world.write();
    expect(next).toBe(late);
    world.frame(FRAME_REPLY, late, 1);
    expect(world.replies).toHaveLength(1);
    world.pass(500);
    world.welcome();
    expect(world.sent.get(2)).toEqual([next]);
    world.frame(FRAME_REPLY, next, 2);
    expect(world.replies).toEqual([
      { request: late, errno: 5 },
      { request: next, errno: 0 },
    ]);
  });
});
