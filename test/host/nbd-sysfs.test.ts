// What is read from /sys and /proc about NBD devices, from copies of such trees.

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { describeUsers } from '../../src/host/device-users.ts';
import { parseMountInfo } from '../../src/host/mountinfo.ts';
import { formatIdentifier, NbdSysfs, parseIdentifier, shownValue } from '../../src/host/nbd-sysfs.ts';

const VOLUME_ID = '0123456789abcdef0123456789abcdef';

describe('a backend identifier', () => {
  test('is read as it was written', () => {
    const digits = fc.string({
      unit: fc.constantFrom(...'0123456789abcdef'.split('')),
      minLength: 32,
      maxLength: 32,
    });
    fc.assert(
      fc.property(digits, fc.nat(Number.MAX_SAFE_INTEGER), (volumeId, attachmentNumber) => {
        const identifier = { volumeId, attachmentNumber };
        expect(parseIdentifier(`${formatIdentifier(identifier)}\n`)).toEqual(identifier);
      }),
    );
  });

  test.each([
    '',
    'export/1',
    VOLUME_ID,
    `${VOLUME_ID}/`,
    `${VOLUME_ID}/01`,
    `${VOLUME_ID}/-1`,
    `${VOLUME_ID}/1/2`,
  ])('of another program is not taken for ours: %j', (text) => {
    expect(parseIdentifier(text)).toBeUndefined();
  });
});

describe('the tree of /sys', () => {
  let root: string;
  let sysfs: NbdSysfs;

  function put(path: string, text: string): void {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), text);
  }

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'holdfast-sysfs-'));
    sysfs = new NbdSysfs(root);
    for (const [index, backend] of [
      [10, `${VOLUME_ID}/7`],
      [2, `${VOLUME_ID}/8`],
      [3, 'somebody else'],
    ] as const) {
      put(`block/nbd${index}/backend`, `${backend}\n`);
      put(`block/nbd${index}/size`, '2048\n');
      put(`block/nbd${index}/ro`, index === 2 ? '1\n' : '0\n');
    }
    put('block/nbd4/size', '0\n');
    put('block/nbd2p1/size', '8\n');
    put('block/sda/size', '8\n');
  });

  afterEach(() => {
    rmSync(root, { recursive: true });
  });

  test('tells our configured devices by index, and no others', () => {
    expect(sysfs.devices()).toEqual([
      { volumeId: VOLUME_ID, attachmentNumber: 8, index: 2, sizeBytes: 1024 * 1024, readOnly: true },
      { volumeId: VOLUME_ID, attachmentNumber: 7, index: 10, sizeBytes: 1024 * 1024, readOnly: false },
    ]);
    expect(sysfs.device(4)).toBeUndefined();
    expect(sysfs.device(99)).toBeUndefined();
  });

  test('tells whether the module is there and looks for partitions', () => {
    expect([sysfs.hasModule(), sysfs.partitionsPerDevice()]).toEqual([false, 0]);
    put('module/nbd/parameters/max_part', '15\n');
    expect([sysfs.hasModule(), sysfs.partitionsPerDevice()]).toEqual([true, 15]);
  });

  test('takes the queue settings that differ, and leaves the others alone', async () => {
    put('block/nbd2/queue/scheduler', '[mq-deadline] kyber none\n');
    put('block/nbd2/queue/read_ahead_kb', '4096\n');
    put('block/nbd2/queue/rotational', '0\n');
    expect(await sysfs.applyQueueSettings(2, { readAheadKib: 4096, resendAfterMs: 2000 })).toEqual([]);
    const queue = (name: string) => readFileSync(join(root, `block/nbd2/queue/${name}`), 'utf8');
    expect([queue('scheduler'), queue('read_ahead_kb'), queue('rotational')]).toEqual([
      'none',
      '4096\n',
      '0\n',
    ]);
  });

  test('tells holders and what loop devices show', () => {
    mkdirSync(join(root, 'block/nbd2/holders/dm-0'), { recursive: true });
    put('block/loop3/loop/backing_file', '/dev/nbd2\n');
    mkdirSync(join(root, 'block/loop4'), { recursive: true });
    expect(sysfs.holders(2)).toEqual(['dm-0']);
    expect(sysfs.holders(10)).toEqual([]);
    expect(sysfs.loopDevices()).toEqual([{ name: 'loop3', backingFile: '/dev/nbd2' }]);
  });

  test('shows a new size as soon as the kernel has it', async () => {
    setTimeout(() => put('block/nbd2/size', '4096\n'), 100);
    await sysfs.awaitSize(2, 2 * 1024 * 1024);
    expect(sysfs.device(2)?.sizeBytes).toBe(2 * 1024 * 1024);
  });
});

test('the value in force of a choice is the one in brackets', () => {
  expect(shownValue('[none] mq-deadline kyber')).toBe('none');
  expect(shownValue('128')).toBe('128');
});

describe('the users of a device', () => {
  const device = { path: '/dev/nbd1', number: '43:1', holders: ['dm-2'] };

  test('are its mounts, each once, its holders, loop devices and swap', () => {
    const mounts = parseMountInfo(
      [
        '36 35 43:1 / /mnt rw - ext4 /dev/nbd1 rw',
        '37 35 43:1 /sub /srv/a\\040b rw - ext4 /dev/nbd1 rw',
        '38 35 43:1 / /mnt rw - ext4 /dev/nbd1 rw',
        '39 35 43:10 / /other rw - ext4 /dev/nbd10 rw',
      ].join('\n'),
    );
    const loops = [
      { name: 'loop0', backingFile: '/dev/nbd1' },
      { name: 'loop1', backingFile: '/dev/nbd10' },
    ];
    const swaps = 'Filename Type Size Used Priority\n/dev/nbd1 partition 1024 0 -2\n';
    expect(describeUsers(device, mounts, loops, swaps)).toEqual([
      'mounted at /mnt',
      'mounted at /srv/a b',
      'held by dm-2',
      'shown by /dev/loop0',
      'used as swap',
    ]);
  });

  test('are none when others of similar names are used', () => {
    const mounts = parseMountInfo('39 35 43:10 / /other rw - ext4 /dev/nbd10 rw');
    const idle = { ...device, holders: [] };
    expect(
      describeUsers(idle, mounts, [{ name: 'loop1', backingFile: '/dev/nbd10' }], '/dev/nbd10 partition 1'),
    ).toEqual([]);
  });
});
