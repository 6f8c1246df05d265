import { execa } from 'execa';
import { mkdir, stat, symlink } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type Daemon, holdfast, HOLDFAST, Workplace } from './daemon.fixture.ts';

interface Volume {
  id: string;
  name: string;
  sizeBytes: number;
  [key: string]: unknown;
}

let place: Workplace;
let daemon: Daemon;

beforeAll(async () => {
  place = await Workplace.create();
  daemon = await place.serving([
    '--pool',
    `main=${place.path('main')}`,
    '--pool',
    `other=${place.path('other')},io=buffered`,
  ]);
});
afterAll(() => place.dispose());

describe('volume', () => {
  test('create, show, list and delete go by name and by id, with a stable JSON shape', async () => {
    const created = await daemon.json<Volume>(
      'volume',
      'create',
      'data',
      '--size',
      '1GiB',
      '--label',
      'app=db',
    );
    expect(created).toEqual({
      id: expect.stringMatching(/^[0-9a-f]{32}$/),
      name: 'data',
      state: 'ready',
      sizeBytes: 2 ** 30,
      epoch: 1,
      durability: 'writeback',
      failureMode: 'soft',
      fileSystem: null,
      attachment: { number: 0, node: '', readOnly: false, use: '' },
      primary: 'test-node',
      inSync: ['test-node'],
      replicas: [
        {
          id: expect.stringMatching(/^[0-9a-f]{32}$/),
          node: 'test-node',
          pool: 'main',
          role: 'primary',
          state: 'inSync',
          allocatedBytes: expect.any(Number),
          resyncBytesLeft: 0,
          resyncBytesSent: 0,
          problem: '',
        },
      ],
      device: '',
      deviceWaitingSince: '',
      serving: false,
      labels: { app: 'db' },
    });
    expect(await daemon.json('volume', 'show', 'data')).toEqual(created);
    expect(await daemon.json('volume', 'show', created.id)).toEqual(created);
    expect(await daemon.json('volume', 'ls')).toEqual({ volumes: [created] });
    expect(await daemon.json('volume', 'delete', created.id)).toEqual({ volume: created.id, left: [] });
    expect(await daemon.json('volume', 'ls')).toEqual({ volumes: [] });
  });

  test('repeated, a creation answers the same volume; with other arguments it names the difference', async () => {
    const first = await daemon.json<Volume>('volume', 'create', 'again', '--size', '8MiB');
    expect(await daemon.json('volume', 'create', 'again', '--size', '8MiB')).toEqual(first);
    const other = await daemon.run('volume', 'create', 'again', '--size', '16MiB');
    expect(other.exitCode).toBe(73);
    expect(other.stderr).toMatch(/size is 8 MiB/);
  });

  test('a volume is made in the pool that is named, and its size is rounded up to whole blocks', async () => {
    const request = ['create', 'odd', '--size', '1048577', '--pool', 'other', '--durability', 'writethrough'];
    const volume = await daemon.json<Volume & { replicas: { pool: string }[] }>('volume', ...request);
    expect(volume.sizeBytes).toBe(2 ** 20 + 4096);
    expect(volume.replicas[0]?.pool).toBe('other');
    expect(volume['durability']).toBe('writethrough');
  });

  test('it grows and never shrinks', async () => {
    await daemon.json('volume', 'create', 'grows', '--size', '8MiB');
    expect((await daemon.json<Volume>('volume', 'resize', 'grows', '--size', '16MiB')).sizeBytes).toBe(
      2 ** 24,
    );
    const shrunk = await daemon.run('volume', 'resize', 'grows', '--size', '8MiB');
    expect(shrunk.exitCode).toBe(64);
    expect((await daemon.json<Volume>('volume', 'show', 'grows')).sizeBytes).toBe(2 ** 24);
  });

  test('explain says in sentences what there is, and that nothing is wrong', async () => {
    await daemon.json('volume', 'create', 'fine', '--size', '8MiB');
    const { findings } = await daemon.json<{ findings: { level: string; text: string }[] }>(
      'volume',
      'explain',
      'fine',
    );
    expect(findings.map(({ level }) => level)).toEqual(['ok', 'ok']);
    expect(findings[0]?.text).toContain('fine has 8 MiB');
    expect(findings[1]?.text).toBe('Nobody uses it.');
  });

  test('a name that is not there gets the nearest one that is', async () => {
    await daemon.json('volume', 'create', 'database', '--size', '8MiB');
    const { exitCode, stderr } = await daemon.run('volume', 'show', 'databse');
    expect(exitCode).toBe(66);
    expect(stderr).toContain('Did you mean "database"?');
  });

  test.each([
    [['volume', 'create', 'x', '--size', 'big'], 64, 'write it like 10GiB'],
    [['volume', 'create', 'x', '--size', '0'], 64, 'write it like 10GiB'],
    [['volume', 'create', 'x', '--size', '1PiB'], 64, '64 TiB'],
    [['volume', 'create', 'x', '--size', '9000TiB'], 64, 'at most 64 TiB; ask for less'],
    [['volume', 'create', 'x', '--size', '8MiB', '--replicas', '-1'], 64, 'from 0 to 5'],
    [['volume', 'create', 'x', '--size', '8MiB', '--replicas', ''], 64, 'leave it out for 0'],
    [['volume', 'create', 'x', '--size', '8MiB', '--replicas', '1'], 64, 'ask for 0'],
    [['volume', 'create', 'x', '--size', '8MiB', '--replicas', 'two'], 64, 'whole number'],
    [['volume', 'create', 'x', '--size', '8MiB', '--pool', 'mian'], 64, 'Did you mean "main"?'],
    [['volume', 'create', 'x', '--size', '8MiB', '--label', 'novalue'], 64, 'KEY=VALUE'],
    [['volume', 'create', 'x', '--size', '8MiB', '--durability', 'none'], 64, 'durability'],
    [['volume', 'create', 'x', '--size', '60TiB'], 73, 'main'],
    [['volume', 'create', 'x'], 64, 'holdfast volume create --help'],
    [['volume'], 64, 'create [options] <name>'],
    [['--json', 'daemon'], 64, '--json is no option'],
    [['volume', 'crate', 'x'], 64, 'Did you mean create?'],
    [['volume', 'create', 'x', '--size', '8MiB', '--replica', '1'], 64, 'Did you mean --replicas?'],
  ])('%j ends with %d and says what to do', async (args, exitCode, text) => {
    const result = await daemon.run(...args);
    expect(result.stderr).toContain(text);
    expect(result.exitCode).toBe(exitCode);
    expect(result.stdout).toBe('');
  });

  test.each([
    [['volume', 'create', 'zz', '--json'], "required option '--size <size>' not specified"],
    [['--json', 'volume', 'crate'], 'Did you mean create?'],
    [['volume', '--json'], 'a command is missing'],
    [['nothing', '--json'], "unknown command 'nothing'"],
  ])('with --json the wrong usage of %j is one JSON object, with the next step', async (args, text) => {
    const { exitCode, stdout, stderr } = await daemon.run(...args);
    expect({ exitCode, stdout }).toEqual({ exitCode: 64, stdout: '' });
    const message = expect.stringMatching(/--help$/);
    expect(JSON.parse(stderr)).toEqual({ error: { code: 'INVALID', message, details: {} } });
    expect(stderr).toContain(text);
  });

  test('--json and --api may stand before the noun and before the verb, and the last --api counts', async () => {
    const expected = await daemon.json('volume', 'ls');
    for (const args of [
      ['--json', 'volume', 'ls'],
      ['volume', '--json', 'ls'],
      ['--api', daemon.api, 'volume', 'ls', '--json'],
      ['--api', '/no/socket', 'volume', '--api', daemon.api, 'ls', '--json'],
      ['--api', '/no/socket', '--json', 'volume', 'ls', '--api', daemon.api],
    ]) {
      const { exitCode, stdout, stderr } = await holdfast(
        '/no/socket',
        ...args,
        ...(args.includes(daemon.api) ? [] : ['--api', daemon.api]),
      );
      expect([exitCode, stderr]).toEqual([0, '']);
      expect(JSON.parse(stdout)).toEqual(expected);
    }
  });

  test('with --json an error is one JSON object on standard error', async () => {
    const { exitCode, stdout, stderr } = await daemon.run('volume', 'delete', 'nowhere', '--json');
    expect({ exitCode, stdout }).toEqual({ exitCode: 66, stdout: '' });
    expect(JSON.parse(stderr)).toEqual({
      error: { code: 'NOT_FOUND', message: expect.stringContaining('volume ls'), details: {} },
    });
  });

  test('outside a terminal a list has one line a volume, its columns separated by tabs', async () => {
    const { volumes } = await daemon.json<{ volumes: Volume[] }>('volume', 'ls');
    const { stdout } = await daemon.run('volume', 'ls');
    const rows = stdout.split('\n').map((line) => line.split('\t'));
    expect(rows.map(([name]) => name)).toEqual(volumes.map(({ name }) => name));
    expect(new Set(rows.map(({ length }) => length))).toEqual(new Set([7]));
  });
});

test('pool ls shows every pool with its room and its I/O mode', async () => {
  const { pools } = await daemon.json<{ pools: { name: string; ioMode: string; creatableBytes: number }[] }>(
    'pool',
    'ls',
  );
  expect(pools.map(({ name }) => name)).toEqual(['main', 'other']);
  expect(pools[1]?.ioMode).toBe('buffered');
  for (const pool of pools) expect(pool.creatableBytes).toBeGreaterThan(0);
});

test('status names the node and its process', async () => {
  const status = await daemon.json<Record<string, unknown>>('status');
  expect(status).toMatchObject({ node: 'test-node', version: '0.1.0', devices: 0 });
  expect(status['storeIdentity']).toMatch(/^[0-9a-f]{32}$/);
});

test('the API socket is for its owner alone', async () => {
  expect((await stat(daemon.api)).mode & 0o777).toBe(0o600);
});

test('--api wins over HOLDFAST_API, and without a daemon both say how to get one', async () => {
  const nothing = place.path('no/directory/nothing.sock');
  const wrong = await holdfast(nothing, 'volume', 'ls');
  expect(wrong.exitCode).toBe(69);
  expect(wrong.stderr).toContain(nothing);
  expect(wrong.stderr).toContain('--api or HOLDFAST_API');
  expect((await holdfast(nothing, 'volume', 'ls', '--api', daemon.api)).exitCode).toBe(0);
});

test('a command that comes before the daemon listens waits for it', async () => {
  await mkdir(place.path('later'));
  const early = holdfast(place.path('later/api.sock'), 'status', '--json');
  const late = place.daemon([], {}, 'later');
  const { exitCode, stdout, stderr } = await early;
  expect([exitCode, stderr]).toEqual([0, '']);
  expect(JSON.parse(stdout)).toMatchObject({ processId: late.process.pid });
});

test('the launcher works from any directory and through symbolic links', async () => {
  await mkdir(place.path('bin'));
  await symlink(HOLDFAST, place.path('bin/first'));
  await symlink('first', place.path('bin/second'));
  const { stdout } = await execa(place.path('bin/second'), ['--version'], { cwd: '/', timeout: 20_000 });
  expect(stdout).toBe('0.1.0');
});

test('preflight names every check, its finding and its remedy', async () => {
  const { stdout, exitCode } = await holdfast('', 'preflight', '--dir', place.directory, '--json');
  const { checks } = JSON.parse(stdout) as {
    checks: { name: string; level: string; found: string; remedy: string }[];
  };
  const byName = new Map(checks.map((check) => [check.name, check]));
  expect(byName.get('io_uring')?.level).toBe('ok');
  expect(byName.get('flushes')?.found).toMatch(/fdatasync p50 \d+\.\d\d ms, p99 \d+\.\d\d ms/);
  for (const { level, remedy } of checks) expect(remedy === '').toBe(level === 'ok');
  expect(exitCode).toBe(checks.some(({ level }) => level === 'problem') ? 1 : 0);
});
