// A volume with copies on three nodes, used as a kernel device on one of them: three daemons and etcd in one guest.
// A daemon that dies, the user's own or the primary's, costs a mounted file system a pause and nothing else.

import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { HOLDFAST, LabDaemon } from './daemon.ts';
import { Guest } from './guest.ts';
import { mustRun } from './machine.ts';

const NODES = ['a', 'b', 'c'] as const;
type NodeName = (typeof NODES)[number];
const ETCD = '127.0.0.1:2379';

interface Shown {
  readonly primary: string;
  readonly inSync: readonly string[];
  readonly epoch: number;
}

describe('a device of a volume with three copies', { timeout: 240_000 }, () => {
  let directory: string;
  let guest: Guest;
  let device: string;
  const daemons = new Map<NodeName, LabDaemon>();

  beforeAll(async () => {
    directory = await mkdtemp(join(tmpdir(), 'holdfast-cluster-device-'));
    const disk = join(directory, 'disk');
    await writeFile(disk, '');
    await truncate(disk, 4 * 1024 * 1024 * 1024);
    guest = await Guest.start({
      memoryMib: 2048,
      modules: ['nbd max_part=0 nbds_max=8'],
      disks: [disk],
      timeoutMs: 900_000,
    });
    await mustRun(guest, 'mkfs.ext4 -q /dev/ubda && mkdir /mnt/disk && mount /dev/ubda /mnt/disk');
    guest.start(
      `exec etcd --data-dir /run/etcd --listen-client-urls http://${ETCD} --advertise-client-urls http://${ETCD} --log-level error`,
      { timeoutMs: 900_000 },
    );
    await mustRun(guest, `until etcdctl --endpoints ${ETCD} endpoint health; do sleep 0.3; done 2>/dev/null`);
    await mustRun(guest, `(umask 077; ${HOLDFAST} cluster keygen >/run/key)`);
    for (const node of NODES) daemons.set(node, await start(node));
    await daemon('a').cli('volume', 'create', 'data', '--size', '512MiB', '--replicas', '2');
    await until((shown) => shown.inSync.length === 3);
  }, 200_000);
  afterAll(async () => {
    await guest?.stop();
    await rm(directory, { recursive: true, force: true });
  });

  function start(node: NodeName): Promise<LabDaemon> {
    const port = 7700 + NODES.indexOf(node);
    return LabDaemon.start(guest, {
      nodeName: node,
      dataDir: `/mnt/disk/${node}/data`,
      poolDir: `/mnt/disk/${node}/pool`,
      apiPath: `/run/${node}.sock`,
      flags: ['--store', `etcd://${ETCD}`, '--listen', `127.0.0.1:${port}`, '--cluster-key', '/run/key'],
    });
  }

  function daemon(node: string): LabDaemon {
    const found = daemons.get(node as NodeName);
    if (found === undefined) throw new Error(`no daemon runs on ${node}`);
    return found;
  }

  async function show(by: NodeName = 'a'): Promise<Shown> {
    return (await daemon(by).cli('volume', 'show', 'data')) as Shown;
  }

  async function until(isTrue: (shown: Shown) => boolean, by: NodeName = 'a'): Promise<Shown> {
    const deadline = performance.now() + 90_000;
    for (;;) {
      const shown = await show(by);
      if (isTrue(shown)) return shown;
      if (performance.now() > deadline) throw new Error(`it stays ${JSON.stringify(shown)}`);
      await sleep(500);
    }
  }

  /** Runs until /run/enough exists: numbered blocks, each on stable storage before its number is noted. */
  const WRITER = `n=0; while [ ! -e /run/enough ]; do
    n=$((n+1)); printf '%08d' $n | dd of=/mnt/fs/log bs=8 seek=$((n-1)) conv=notrunc,fsync status=none || exit 1
    echo $n >/run/noted; done; echo done`;
  const CHECK = `n=$(cat /run/noted); for i in $(seq $n); do printf '%08d' $i; done | cmp -n $((n*8)) - /mnt/fs/log && echo same $n`;

  test('is mounted on a node, and its file system is on every copy', async () => {
    device = (await mustRun(guest, [HOLDFAST, 'volume', 'attach', 'data', '--api', '/run/b.sock'])).trim();
    expect(device).toMatch(/^\/dev\/nbd\d+$/);
    await mustRun(guest, `mkfs.ext4 -q ${device} && mkdir -p /mnt/fs && mount ${device} /mnt/fs`);
    await mustRun(
      guest,
      'head -c 16M /dev/urandom >/mnt/fs/file && sync && sha256sum </mnt/fs/file >/run/sum',
    );
    expect((await show()).inSync).toHaveLength(3);
  });

  test('grows when its volume is resized through another node', async () => {
    await daemon('a').cli('volume', 'resize', 'data', '--size', '768MiB');
    await expect
      .poll(() => mustRun(guest, ['blockdev', '--getsize64', device]), { timeout: 20_000 })
      .toBe(`${768 * 1024 * 1024}\n`);
  });

  test('outlives the daemon of its node, under writes', async () => {
    const writing = guest.start(`rm -f /run/enough; ${WRITER}`, { timeoutMs: 200_000 });
    await sleep(3000);
    await daemon('b').kill();
    daemons.set('b', await start('b'));
    await sleep(5000);
    await mustRun(guest, 'touch /run/enough');
    expect((await writing.ended).stdout).toBe('done\n');
    expect(await mustRun(guest, CHECK)).toMatch(/^same \d+\n$/);
    await until((shown) => shown.inSync.length === 3, 'b');
  });

  test('outlives the daemon of the primary, under writes', async () => {
    // The primary's place goes to a node that does not use the volume.
    const { primary: before } = await show('b');
    if (before === 'b') await daemon('b').cli('volume', 'move', 'data', 'c');
    const { primary } = await until((shown) => shown.primary !== 'b', 'b');
    const writing = guest.start(`rm -f /run/enough /mnt/fs/log; ${WRITER}`, { timeoutMs: 200_000 });
    await sleep(3000);
    await daemon(primary).kill();
    const after = await until((shown) => shown.primary !== primary, 'b');
    expect(after.epoch).toBeGreaterThan(1);
    await sleep(3000);
    await mustRun(guest, 'touch /run/enough');
    expect((await writing.ended).stdout).toBe('done\n');
    expect(await mustRun(guest, CHECK)).toMatch(/^same \d+\n$/);
    daemons.set(primary as NodeName, await start(primary as NodeName));
    await until((shown) => shown.inSync.length === 3, 'b');
  });

  test('is whole from the disks afterwards, and no error was seen', async () => {
    await mustRun(guest, 'umount /mnt/fs && sysctl -qw vm.drop_caches=3');
    await mustRun(guest, ['e2fsck', '-fn', device]);
    await mustRun(guest, `mount -o ro ${device} /mnt/fs && sha256sum </mnt/fs/file | cmp - /run/sum`);
    await mustRun(guest, 'umount /mnt/fs');
    expect(await guest.kernelLog()).not.toMatch(/I\/O error|EXT4-fs error/);
    await daemon('b').cli('volume', 'detach', 'data');
    await daemon('a').cli('volume', 'delete', 'data');
    expect(await daemon('c').cli('volume', 'ls')).toMatchObject({ volumes: [] });
    expect(await mustRun(guest, 'ls /mnt/disk/*/pool | grep -cE "^[0-9a-f]{32}$" || true')).toBe('0\n');
  });
});
