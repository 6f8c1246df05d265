// Faults in a row under a checked load: a volume of three copies, a client on one node after the other. Needs root, for
// the network.

import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { RandomFaults, randomOf, strikeAtRandom } from './random-faults.ts';
import { VolumeUnderLoad } from './volume-under-load.ts';

const SOAK_FAULTS = Number(process.env['HOLDFAST_FAULTS'] ?? 200);
const FAULTS = process.env['HOLDFAST_SOAK'] === undefined ? 12 : SOAK_FAULTS;
const LONGEST_FAULT_MS = 60_000;
/** Between looks at everything. */
const FAULTS_A_CLIENT = 4;
const SEED = Number(process.env['HOLDFAST_SEED'] ?? 4711);

describe.skipIf(process.geteuid?.() !== 0)('a volume of three copies (needs root)', () => {
  let world: VolumeUnderLoad;

  beforeAll(async () => {
    world = await VolumeUnderLoad.start('--replicas', '2');
  });
  afterAll(async () => {
    await world[Symbol.asyncDispose]();
  });

  test(
    `loses nothing and fails no request in ${FAULTS} random faults (HOLDFAST_SEED=${SEED})`,
    async () => {
      const random = randomOf(SEED);
      const faults = new RandomFaults(world.cluster, world.volume.name, () => world.user, random);
      const done: string[] = [];
      for (let count = 0; count < FAULTS; count += 1) {
        if (count % FAULTS_A_CLIENT === 0) {
          await world.leave();
          const users = world.cluster.nodes;
          await world.begin(users[(count / FAULTS_A_CLIENT) % users.length]);
        } else await world.begin();
        done.push(await strikeAtRandom(faults, random));
        await world.goesOn();
        const { errors, brokenBy } = await world.load.stop();
        expect({ errors, brokenBy, done }).toEqual({ errors: new Map(), brokenBy: undefined, done });
        expect({ complaints: world.history.complaints, done }).toEqual({ complaints: [], done });
        if (count % FAULTS_A_CLIENT !== FAULTS_A_CLIENT - 1) continue;
        await world.inSync(3);
        await world.expectRight();
      }
    },
    FAULTS * LONGEST_FAULT_MS,
  );
});
