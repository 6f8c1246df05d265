import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { mountAt, parseMountInfo } from '../../src/host/mountinfo.ts';

const LINE = '36 35 43:96 /sub /mnt/a\\040b rw,noatime master:1 shared:7 - ext4 /dev/nbd3 ro,errors=continue';

describe('mountinfo', () => {
  test('has every field of a line', () => {
    expect(parseMountInfo(`${LINE}\n`)).toEqual([
      {
        id: 36,
        parentId: 35,
        device: '43:96',
        root: '/sub',
        mountPoint: '/mnt/a b',
        options: ['rw', 'noatime'],
        fileSystem: 'ext4',
        source: '/dev/nbd3',
        superOptions: ['ro', 'errors=continue'],
      },
    ]);
  });

  test.each([
    ['no optional fields', '1 2 0:1 / /m ro - tmpfs none rw', { mountPoint: '/m', source: 'none' }],
    ['a dash as a path', '1 2 0:1 / - rw - tmpfs - rw', { mountPoint: '-', source: '-' }],
    ['a dash in a path', '1 2 0:1 / /a-b - - tmpfs x rw', undefined],
    [
      'escapes of blank, tab, newline, backslash and hash',
      '1 2 0:1 / /\\040\\011\\012\\134\\043 rw - t s rw',
      { mountPoint: '/ \t\n\\#' },
    ],
    ['an escape that is text after a backslash', '1 2 0:1 / /\\134040 rw - t s rw', { mountPoint: '/\\040' }],
    ['letters beyond ASCII', '1 2 0:1 / /größe rw - t s rw', { mountPoint: '/größe' }],
    ['no super options', '1 2 0:1 / /m rw - t s ', { superOptions: [''] }],
  ])('is understood with %s', (_, line, expected) => {
    const [mount] = parseMountInfo(line);
    if (expected === undefined) expect(mount?.mountPoint).toBe('/a-b');
    else expect(mount).toMatchObject(expected);
  });

  test('keeps any path that the kernel escapes', () => {
    const escape = (path: string): string =>
      path.replace(/[ \t\n\\#]/g, (char) => `\\${char.charCodeAt(0).toString(8).padStart(3, '0')}`);
    fc.assert(
      fc.property(
        fc.string({ unit: 'grapheme' }).filter((path) => !path.includes('\0')),
        (path) => {
          const [mount] = parseMountInfo(`1 2 0:1 / /${escape(path)} rw - t s rw`);
          expect(mount?.mountPoint).toBe(`/${path}`);
        },
      ),
    );
  });

  test('shows the last of several mounts on a path', () => {
    const mounts = parseMountInfo(`${LINE}\n${LINE.replace('36', '37').replace('nbd3', 'nbd4')}`);
    expect(mountAt(mounts, '/mnt/a b')?.source).toBe('/dev/nbd4');
    expect(mountAt(mounts, '/mnt')).toBeUndefined();
  });

  test('of this machine agrees with findmnt', () => {
    const listed = execFileSync('findmnt', ['--list', '--noheadings', '--output', 'TARGET'], {
      encoding: 'utf8',
    });
    const parsed = parseMountInfo(readFileSync('/proc/self/mountinfo', 'utf8'));
    const known = listed
      .trim()
      .split('\n')
      .map((line) => line.trim());
    for (const path of ['/', '/proc']) {
      expect(known).toContain(path);
      expect(mountAt(parsed, path)).toBeDefined();
    }
    expect(parsed.every(({ id, parentId }) => Number.isInteger(id) && Number.isInteger(parentId))).toBe(true);
  });
});
