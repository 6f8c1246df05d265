// Every daemon of a cluster is stopped and started again, one after the other, under a checked load: as it was, and as
// other releases with other versions of what daemons say to each other and of what is on the disks. The client goes to
// another node before its own daemon is stopped, as a drained pod does. Needs root, for the network.

import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { until } from '../daemon/daemon.fixture.ts';
import {
  type Changes,
  DISTANT_RELEASE,
  NEXT_RELEASE,
  type OtherVersions,
  RELEASE_AFTER_NEXT,
  spokenLine,
} from './changed-daemon.ts';
import type { ClusterNode } from './cluster.ts';
import { VolumeUnderLoad } from './volume-under-load.ts';

/** Of a stop in order the client feels the handover, a few tenths of a second; the rest is a busy machine. */
const SHORT_MS = 20_000;
const SAID_MS = 60_000;

describe.skipIf(process.geteuid?.() !== 0)('a volume of two copies (needs root)', () => {
  let world: VolumeUnderLoad;

  beforeAll(async () => {
    world = await VolumeUnderLoad.start('--replicas', '1');
  });
  afterAll(async () => {
    await world[Symbol.asyncDispose]();
  });
  afterEach(async () => {
    await world.settle();
    await world.leave();
  });

  test('goes on without a copy whose files are too new for its daemon, which says so and leaves them as they are', async () => {
    const { others } = await world.inSync(2);
    await world.begin(world.withoutCopy);
    const [newer] = others;
    if (newer === undefined) throw new Error('there are two copies');
    await restart(newer, RELEASE_AFTER_NEXT);
    await world.inSync(2);
    await restart(newer, undefined);
    await world.volume.untilInSync(world.user, 1);
    await world.goesOn();
    await untilSaid(
      newer,
      /is of version \d and this Holdfast reads version \d only: start the Holdfast version/,
    );
    // The release between the two reads what it wrote.
    await restart(newer, NEXT_RELEASE);
    await world.inSync(2);
    await world.expectNothingLost();
  });

  test('goes on without a copy whose daemon speaks nothing that the others speak; explain and both logs say so', async () => {
    const { primary, others } = await world.inSync(2);
    await world.begin(world.withoutCopy);
    const [distant] = others;
    if (distant === undefined) throw new Error('there are two copies');
    await restart(distant, DISTANT_RELEASE);
    await world.volume.untilInSync(world.user, 1);
    await world.goesOn();
    const tooOld = /speaks versions 2 to 2 of .* and this daemon 1 to 1: upgrade this daemon/;
    const tooNew = /speaks versions 1 to 1 of .* and this daemon 2 to 2: upgrade the other daemon/;
    await untilSaid(primary, tooOld);
    await untilSaid(distant, tooNew);
    const { stdout } = await world.user.run('volume', 'explain', 'data');
    expect(stdout).toMatch(
      /node "\w+" is alive, but node "\w+" cannot talk with it: it speaks versions 2 to 2/,
    );
    await restart(distant, undefined);
    await world.inSync(2);
    await world.expectNothingLost();
  });

  test('sees short pauses and no error while every daemon is restarted', async () => {
    const pauses = await roll(undefined);
    console.log(`worst pauses of a rolling restart: ${JSON.stringify(pauses)}`);
  });

  test('sees no error while every daemon is upgraded to the next release, and back', async () => {
    const upgrade = await roll(NEXT_RELEASE);
    const speakers = (version: number): number =>
      world.cluster.nodes.filter((node) => isSaid(node, spokenLine(version))).length;
    // The first one with those that are not upgraded yet; in the end all with each other.
    expect(speakers(1)).toBeGreaterThanOrEqual(1);
    expect(speakers(2)).toBeGreaterThanOrEqual(2);
    const back = await roll(undefined);
    console.log(`worst pauses of an upgrade: ${JSON.stringify(upgrade)}, and back: ${JSON.stringify(back)}`);
  });

  /** The worst pause of the client for each node's daemon, in milliseconds. */
  async function roll(versions: OtherVersions | undefined): Promise<Record<string, number>> {
    await world.inSync(2);
    const pauses: Record<string, number> = {};
    const { withoutCopy } = world;
    const [first, ...rest] = world.cluster.nodes.filter((node) => node !== withoutCopy);
    if (first === undefined) throw new Error('there are two copies');
    for (const node of [first, ...rest, withoutCopy]) {
      const user = node === withoutCopy ? first : withoutCopy;
      await world.leave();
      await world.begin(user);
      await restart(node, versions);
      await world.goesOn();
      await world.inSync(2);
      const { longestPause } = await world.expectNothingLost();
      pauses[node.name] = Math.round(longestPause.ms);
      const { stdout } = await user.run('volume', 'timeline', 'data');
      expect(longestPause.ms, `${longestPause.startedAt.toISOString()} ${stdout}`).toBeLessThan(SHORT_MS);
    }
    return pauses;
  }
});

/** Stopped in order. */
async function restart(node: ClusterNode, versions: OtherVersions | undefined): Promise<void> {
  expect(await node.end()).toBe(0);
  const changes: Changes | undefined = versions === undefined ? undefined : { versions };
  node.changes = changes;
  await node.start();
}

function isSaid(node: ClusterNode, text: string | RegExp): boolean {
  return node.daemon.lines.some((line) => (typeof text === 'string' ? line === text : text.test(line)));
}

async function untilSaid(node: ClusterNode, text: RegExp): Promise<void> {
  try {
    await until(`${node.name} says ${text}`, () => isSaid(node, text), SAID_MS);
  } catch (cause) {
    throw new Error(`not said by ${node.name}: ${text}\n${node.daemon.lines.slice(-20).join('\n')}`, {
      cause,
    });
  }
}
