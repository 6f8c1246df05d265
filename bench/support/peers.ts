// The servers beside which ours is measured. Each serves one image file of the same file system, with the
// durability that ours has: an acknowledged write is in the page cache (buffered) or accepted by the disk
// (direct), and FLUSH reaches stable storage.

import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { end, endBackground, endWithThisProcess, start, untilExists } from './processes.ts';

export interface Server {
  readonly name: string;
  readonly uri: string;
  /** Root of the process tree that serves. */
  readonly pid: number;
  stop(): Promise<void>;
}

export interface Peer {
  readonly name: string;
  start(directory: string, image: string): Promise<Server>;
}

function foreground(
  name: string,
  command: (socket: string, image: string) => readonly [string, ...string[]],
): Peer {
  return {
    name,
    start: async (directory, image) => {
      const socket = join(directory, `${name.replaceAll(/\W+/g, '-')}.sock`);
      const [file, ...args] = command(socket, image);
      const child = start(file, args);
      await untilExists(socket, child);
      return { name, uri: `nbd+unix:///?socket=${socket}`, pid: child.pid ?? 0, stop: () => end(child) };
    },
  };
}

function qemuNbd(name: string, ...cache: string[]): Peer {
  return foreground(name, (socket, image) => [
    'qemu-nbd',
    '--format=raw',
    '--persistent',
    '--shared=16',
    '--discard=unmap',
    ...cache,
    `--socket=${socket}`,
    image,
  ]);
}

/** Runs only as a background process that leaves its id in a file. */
const nbdServer: Peer = {
  name: 'nbd-server',
  start: async (directory, image) => {
    const socket = join(directory, 'nbd-server.sock');
    const pidFile = join(directory, 'nbd-server.pid');
    const configuration = join(directory, 'nbd-server.conf');
    writeFileSync(
      configuration,
      `[generic]\nunixsock = ${socket}\nallowlist = true\n[image]\nexportname = ${image}\nflush = true\nfua = true\ntrim = true\n`,
    );
    const starter = start('nbd-server', ['-C', configuration, '-p', pidFile]);
    const [code] = (await once(starter, 'exit')) as [number | null];
    if (code !== 0) throw new Error(`nbd-server did not start: ${code}`);
    await untilExists(pidFile);
    await untilExists(socket);
    const pid = Number(readFileSync(pidFile, 'utf8'));
    endWithThisProcess(pid);
    const stop = (): Promise<void> => {
      endBackground(pid);
      return Promise.resolve();
    };
    return { name: 'nbd-server', uri: `nbd+unix:///image?socket=${socket}`, pid, stop };
  },
};

export const PEERS: Readonly<Record<'buffered' | 'direct', readonly Peer[]>> = {
  buffered: [
    foreground('nbdkit file', (socket, image) => [
      'nbdkit',
      '--foreground',
      '--unix',
      socket,
      'file',
      image,
      'cache=default',
    ]),
    nbdServer,
    qemuNbd('qemu-nbd writeback', '--cache=writeback'),
  ],
  direct: [qemuNbd('qemu-nbd none', '--cache=none', '--aio=io_uring')],
};
