// Other people's NBD clients, with their own idea of the protocol, against a live server: libnbd (nbdinfo,
// nbdcopy, fio's engine) and qemu (qemu-io, qemu-img).

import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { HoldfastServer } from '../support/nbd-programs.ts';
import { pattern } from './nbd-protocol-suite.ts';

const run = promisify(execFile);
const KIB = 1024;
const MIB = 1024 * KIB;
const TIMEOUT_MS = 60_000;

function sha256(file: string): string {
  return createHash('sha256').update(readFileSync(file)).digest('hex');
}

export function nbdInteropSuite(name: string, start: () => Promise<HoldfastServer>): void {
  describe(`other NBD clients: ${name}`, () => {
    let server: HoldfastServer;
    let directory: string;
    let uri: string;
    beforeAll(async () => {
      directory = mkdtempSync(join(tmpdir(), 'holdfast-interop-'));
      server = await start();
      uri = `nbd+unix:///${server.exportName}?socket=${server.socketPath}`;
    });
    afterAll(async () => {
      await server.stop();
      rmSync(directory, { recursive: true, force: true });
    });

    /** Standard output; rejects with what it said when it fails or takes too long. */
    async function output(file: string, ...args: string[]): Promise<string> {
      const { stdout } = await run(file, args, { timeout: TIMEOUT_MS, maxBuffer: 16 * MIB, cwd: directory });
      return stdout;
    }

    const qemuIo = (...commands: string[]): Promise<string> =>
      output('qemu-io', '-f', 'raw', ...commands.flatMap((command) => ['-c', command]), uri);

    /** A file of the volume's size with data and holes of many sizes. */
    function writeImage(file: string): void {
      const bytes = Buffer.alloc(server.sizeBytes);
      for (
        let at = 0, length = 512;
        at + length < bytes.length;
        at += length * 3, length = (length * 2) % 3_000_001
      ) {
        pattern(length, at).copy(bytes, at);
      }
      writeFileSync(file, bytes);
    }

    test('nbdinfo sees the export and everything it offers', async () => {
      const info = JSON.parse(await output('nbdinfo', '--json', uri)) as Record<string, unknown>;
      expect(info).toMatchObject({
        protocol: 'newstyle-fixed',
        TLS: false,
        structured: true,
        exports: [
          {
            'export-name': server.exportName,
            'export-size': server.sizeBytes,
            contexts: ['base:allocation'],
            is_rotational: false,
            is_read_only: false,
            can_cache: true,
            can_df: true,
            can_fast_zero: false,
            can_flush: true,
            can_fua: true,
            can_multi_conn: true,
            can_trim: true,
            can_zero: true,
            block_size_minimum: 1,
            block_size_preferred: 4096,
            block_size_maximum: 32 * MIB,
          },
        ],
      });
      expect(await output('nbdinfo', '--list', `nbd+unix:///?socket=${server.socketPath}`)).toContain(
        `export="${server.exportName}"`,
      );
    });

    test('nbdinfo maps data and holes where they are', async () => {
      await qemuIo(`discard 0 ${server.sizeBytes}`, 'write -P 1 1M 64k', 'write -P 2 8M 1M', 'flush');
      const map = JSON.parse(await output('nbdinfo', '--map', '--json', uri)) as {
        offset: number;
        length: number;
        type: number;
      }[];
      expect(map).toEqual([
        { offset: 0, length: MIB, type: 3, description: 'hole,zero' },
        { offset: MIB, length: 64 * KIB, type: 0, description: 'data' },
        { offset: MIB + 64 * KIB, length: 7 * MIB - 64 * KIB, type: 3, description: 'hole,zero' },
        { offset: 8 * MIB, length: MIB, type: 0, description: 'data' },
        { offset: 9 * MIB, length: server.sizeBytes - 9 * MIB, type: 3, description: 'hole,zero' },
      ]);
    });

    test('nbdcopy brings a file in and out again, over one connection and over several', async () => {
      writeImage(join(directory, 'in'));
      const expected = sha256(join(directory, 'in'));
      for (const connections of ['1', '4']) {
        const several = ['--connections', connections, '--threads', connections, '--flush'];
        await output('nbdcopy', ...several, 'in', uri);
        await output('nbdcopy', ...several, uri, `out${connections}`);
        expect(sha256(join(directory, `out${connections}`))).toBe(expected);
      }
    }, 120_000);

    test('qemu-img converts to and from it and finds them identical', async () => {
      writeImage(join(directory, 'image'));
      await output('qemu-img', 'convert', '-n', '-f', 'raw', '-O', 'raw', 'image', uri);
      await output('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', 'image', uri);
      await output('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', uri, 'copy');
      await output('qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2', 'image', 'copy');
      await qemuIo('write -P 9 1M 512');
      await expect(output('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', 'image', uri)).rejects.toThrow();
    }, 120_000);

    test('qemu-io patterns survive writes, zeroes, discards and flushes', async () => {
      const said = await qemuIo(
        'write -P 0xab 0 1M',
        'write -f -P 0xcd 64k 12345',
        'write -z 128k 64k',
        'write -z -u 256k 64k',
        'discard 384k 64k',
        'flush',
        'read -P 0xab 0 64k',
        'read -P 0xcd 64k 12345',
        'read -P 0 128k 64k',
        'read -P 0xab 192k 64k',
        'read -P 0 256k 64k',
        'read -P 0xab 320k 64k',
        'read -P 0xab 448k 576k',
        'aio_write -P 0x11 2M 32M',
        'aio_write -P 0x22 40M 1M',
        'aio_flush',
        'read -P 0x11 2M 32M',
        'read -P 0x22 40M 1M',
      );
      expect(said).not.toContain('verification failed');
      expect(said).not.toContain('failed:');
    });

    test('fio verifies by checksum what it wrote at random, in many sizes and on several connections', async () => {
      const engine = ['--ioengine=nbd', `--uri=${uri}`, '--iodepth=32'];
      const work = ['--rw=randwrite', '--size=24M', '--bsrange=512-128k'];
      const check = ['--verify=crc32c', '--verify_fatal=1', '--verify_backlog=256'];
      // A job's name begins its own options; what stands before the first holds for all.
      const jobs = [0, 1, 2].flatMap((job) => [`--name=job${job}`, `--offset=${job * 24}M`]);
      const report = await output('fio', '--output-format=json', ...engine, ...work, ...check, ...jobs);
      const parsed = JSON.parse(report.slice(report.indexOf('{'))) as {
        jobs: { error: number; read: { total_ios: number } }[];
      };
      expect(parsed.jobs.map(({ error }) => error)).toEqual([0, 0, 0]);
      for (const job of parsed.jobs) expect(job.read.total_ios).toBeGreaterThan(100);
    }, 120_000);
  });
}
