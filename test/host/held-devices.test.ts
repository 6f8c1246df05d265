import { beforeEach, describe, expect, test } from 'vitest';
import type { JudgeAttachment } from '../../src/core/attachment-verdict.ts';
import { HoldfastError } from '../../src/core/errors.ts';
import type { AttachedDevice, DeviceService } from '../../src/host/device-service.ts';
import { HeldDevices } from '../../src/host/held-devices.ts';
import { silentLogger } from '../../src/observe/log.ts';

/** Devices that are only remembered; `problem` makes the next change fail. */
class RememberedDevices implements DeviceService {
  readonly attached = new Map<string, AttachedDevice>();
  problem: HoldfastError | undefined;

  async attach(volumeId: string, attachmentNumber: number, sizeBytes: number, readOnly: boolean) {
    this.#fail();
    const device = { volumeId, attachmentNumber, index: 0, path: '/dev/nbd0', readOnly, sizeBytes };
    this.attached.set(volumeId, device);
    return device;
  }
  async detach(volumeId: string) {
    this.#fail();
    this.attached.delete(volumeId);
  }
  find(volumeId: string) {
    return this.attached.get(volumeId);
  }
  list() {
    return [...this.attached.values()];
  }
  waitingSince() {
    return undefined;
  }
  unjudged() {
    return [];
  }
  async resize(volumeId: string, sizeBytes: number) {
    this.#fail();
    events.push('resized');
    const device = this.attached.get(volumeId);
    if (device !== undefined) this.attached.set(volumeId, { ...device, sizeBytes });
  }
  async recover(judge: JudgeAttachment, open: (volumeId: string) => Promise<void>) {
    for (const { volumeId, attachmentNumber } of this.list()) {
      const verdict = await judge(volumeId, attachmentNumber);
      if (verdict === 'over') this.attached.delete(volumeId);
      else if (verdict === 'current') await open(volumeId);
    }
  }
  async release() {}
  #fail() {
    const { problem } = this;
    this.problem = undefined;
    if (problem !== undefined) throw problem;
  }
}

let inner: RememberedDevices;
let holds: Map<string, number>;
let refused: HoldfastError | undefined;
let volumeBytes: number;
/** While set, no volume can be closed. */
let deadDisk: HoldfastError | undefined;
let closedCount: number;
/** What was grown or followed, in order. */
let events: string[];
let devices: HeldDevices;
beforeEach(() => {
  inner = new RememberedDevices();
  holds = new Map();
  refused = undefined;
  volumeBytes = 4096;
  deadDisk = undefined;
  closedCount = 0;
  events = [];
  devices = held();
});
function held(): HeldDevices {
  const count = (volumeId: string, by: number): void => {
    const now = (holds.get(volumeId) ?? 0) + by;
    expect(now, 'holds are balanced').toBeGreaterThanOrEqual(0);
    holds.set(volumeId, now);
  };
  const closeUnused = async (volumeId: string): Promise<void> => {
    if (holds.get(volumeId) !== 0) return;
    if (deadDisk !== undefined) throw deadDisk;
    closedCount += 1;
  };
  return new HeldDevices(
    inner,
    {
      follow: async () => void events.push('followed'),
      acquire: async (volumeId) => {
        if (refused !== undefined) throw refused;
        count(volumeId, 1);
        return { sizeBytes: volumeBytes };
      },
      release: async (volumeId) => {
        count(volumeId, -1);
        await closeUnused(volumeId);
      },
      closeUnused,
    },
    silentLogger,
    20,
  );
}
const problem = new HoldfastError('CONFLICT', 'in use');

describe('a device', () => {
  test('grows after what serves it has grown, and is served for its newest attachment', async () => {
    await devices.attach('v', 1, 4096, false);
    await devices.resize('v', 8192);
    await devices.attach('v', 2, 8192, false);
    expect(events).toEqual(['followed', 'resized', 'followed']);
  });

  test('follows its volume that grew elsewhere, and is tried again where it cannot at once', async () => {
    await devices.recover(async () => 'current');
    await devices.attach('v', 1, 4096, false);
    await devices.grow('other', 8192);
    await devices.grow('v', 4096);
    expect(events).toEqual([]);
    inner.problem = problem;
    await devices.grow('v', 8192);
    expect(inner.find('v')?.sizeBytes).toBe(4096);
    await expect.poll(() => inner.find('v')?.sizeBytes).toBe(8192);
    await devices.release();
  });

  test('holds its volume once, however often it is attached, until it is gone', async () => {
    for (const number of [1, 1, 2]) await devices.attach('v', number, 4096, false);
    expect(holds.get('v')).toBe(1);
    await devices.detach('v');
    await devices.detach('v');
    expect(holds.get('v')).toBe(0);
  });

  test('that fails to attach leaves no hold; one that fails to detach keeps it', async () => {
    inner.problem = problem;
    await expect(devices.attach('v', 1, 4096, false)).rejects.toBe(problem);
    expect(holds.get('v')).toBe(0);
    await devices.attach('v', 1, 4096, false);
    inner.problem = problem;
    await expect(devices.detach('v')).rejects.toBe(problem);
    expect(holds.get('v')).toBe(1);
  });

  test('that stands keeps its hold when attaching it again fails', async () => {
    await devices.attach('v', 1, 4096, false);
    inner.problem = problem;
    await expect(devices.attach('v', 2, 4096, false)).rejects.toBe(problem);
    expect(holds.get('v')).toBe(1);
  });

  test('that somebody else took away is not held twice afterwards', async () => {
    await devices.attach('v', 1, 4096, false);
    inner.attached.clear();
    await devices.attach('v', 2, 4096, false);
    expect(holds.get('v')).toBe(1);
    inner.attached.clear();
    await devices.detach('v');
    expect(holds.get('v')).toBe(0);
  });

  test('detached by two at once gives its hold back once', async () => {
    await devices.attach('v', 1, 4096, false);
    await Promise.all([devices.detach('v'), devices.detach('v')]);
    expect(holds.get('v')).toBe(0);
  });

  test('whose volume cannot be closed gives its hold back once, and every detach tries to close again', async () => {
    await devices.attach('v', 1, 4096, false);
    deadDisk = new HoldfastError('IO', 'the disk is dead');
    for (let time = 1; time <= 2; time += 1) await expect(devices.detach('v')).rejects.toBe(deadDisk);
    expect(holds.get('v')).toBe(0);
    deadDisk = undefined;
    await devices.detach('v');
    await devices.detach('v');
    expect(closedCount).toBe(1);
  });

  test('attached again after its volume could not be closed holds it again', async () => {
    await devices.attach('v', 1, 4096, false);
    deadDisk = new HoldfastError('IO', 'the disk is dead');
    await expect(devices.detach('v')).rejects.toBe(deadDisk);
    await devices.attach('v', 2, 4096, false);
    expect(holds.get('v')).toBe(1);
    deadDisk = undefined;
    await devices.detach('v');
    expect([holds.get('v'), closedCount]).toEqual([0, 1]);
  });
});

describe('after a restart', () => {
  beforeEach(async () => {
    for (const volumeId of ['kept', 'revoked']) await inner.attach(volumeId, 1, 4096, false);
  });

  test('devices of current attachments are held, the others go', async () => {
    await devices.recover(async (volumeId) => (volumeId === 'kept' ? 'current' : 'over'));
    expect(holds).toEqual(new Map([['kept', 1]]));
    await devices.detach('kept');
    expect(holds).toEqual(new Map([['kept', 0]]));
    await devices.release();
  });

  test('a device grows whose volume grew while no daemon ran', async () => {
    await inner.attach('v', 1, 4096, false);
    volumeBytes = 8192;
    await devices.recover(async () => 'current');
    await expect.poll(() => inner.find('v')?.sizeBytes).toBe(8192);
    await devices.release();
  });

  test('a device that cannot be judged stays, and its volume is not opened', async () => {
    await devices.recover(async (volumeId) => (volumeId === 'kept' ? 'current' : 'unknown'));
    expect(inner.list()).toHaveLength(2);
    expect(holds).toEqual(new Map([['kept', 1]]));
    await devices.release();
  });

  test('a device that goes without a detach gives its hold back', async () => {
    await devices.recover(async () => 'current');
    inner.attached.delete('revoked');
    await expect.poll(() => holds.get('revoked'), { timeout: 5000 }).toBe(0);
    expect(holds.get('kept')).toBe(1);
    await devices.release();
  });

  test.each([
    ['UNAVAILABLE', 'its pool is away'],
    ['CORRUPT', 'its superblock cannot be read'],
    ['IO', 'its disk failed'],
  ] as const)(
    'a device whose volume cannot be opened (%s: %s) is kept, and held as soon as it can',
    async (code, text) => {
      refused = new HoldfastError(code, text);
      await devices.recover(async () => 'current');
      expect(inner.list()).toHaveLength(2);
      expect(holds.size).toBe(0);
      refused = undefined;
      const counts = () => ['kept', 'revoked'].map((volumeId) => holds.get(volumeId));
      await expect.poll(counts, { timeout: 5000 }).toEqual([1, 1]);
      await devices.detach('kept');
      expect(holds.get('kept')).toBe(0);
      await devices.release();
    },
  );

  test('a defect of the daemon stops its start', async () => {
    refused = new HoldfastError('INTERNAL', 'a defect');
    await expect(devices.recover(async () => 'current')).rejects.toBe(refused);
    expect(inner.list()).toHaveLength(2);
  });
});
