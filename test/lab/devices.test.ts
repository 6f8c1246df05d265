// A volume's device through its life, on a guest's kernel: attached, used, kept over a killed daemon, grown,
// held, revoked, hung, removed. One guest runs the whole sequence (test/lab-guests/devices.ts); the tests
// read what it saw.

import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, test } from 'vitest';
import { Guest } from './guest.ts';

const SEQUENCE = fileURLToPath(new URL('../lab-guests/devices.ts', import.meta.url));
const VOLUME_ID = '0123456789abcdef0123456789abcdef';
const MIB = 1 << 20;
const QUEUE = {
  scheduler: expect.stringContaining('[none]'),
  nr_requests: '128',
  max_sectors_kb: '1024',
  read_ahead_kb: '128',
  rotational: '0',
  io_timeout: '1000',
  write_cache: 'write back',
};
let seen: Record<string, unknown>;
let kernelLog: string;

function device(attachmentNumber: number, sizeBytes: number, readOnly = false): unknown {
  return { volumeId: VOLUME_ID, attachmentNumber, sizeBytes, readOnly, index: 0, path: '/dev/nbd0' };
}

function refused(code: string, text: string): unknown {
  return { error: { code, message: expect.stringContaining(text) } };
}

beforeAll(async () => {
  await using guest = await Guest.start({ modules: ['loop', 'dm-mod'], memoryMib: 768, timeoutMs: 360_000 });
  const { exitCode, stdout, stderr } = await guest.run([process.execPath, SEQUENCE], { timeoutMs: 300_000 });
  kernelLog = await guest.kernelLog();
  if (exitCode !== 0) throw new Error(`exit code ${exitCode}\n${stderr}\nkernel:\n${kernelLog.slice(-6000)}`);
  seen = JSON.parse(stdout);
}, 360_000);

describe('a device', () => {
  test('is attached with its queue settings, and the module loaded without partitions', () => {
    expect(seen).toMatchObject({
      'module before': false,
      partitions: '0',
      attached: device(1, 64 * MIB),
      backend: `${VOLUME_ID}/1`,
      queue: QUEUE,
      'attached again': device(1, 64 * MIB),
    });
  });

  test('stays while it is mounted or shown by a loop device, and goes when it is free', () => {
    expect(seen).toMatchObject({
      'detach while mounted': refused('CONFLICT', 'mounted at /run/volume'),
      'detach while a loop device shows it': refused('CONFLICT', 'shown by /dev/loop0'),
      'detach while device mapper holds it': refused('CONFLICT', 'held by dm-0'),
      detached: null,
      'detached again': null,
      'backend after detach': null,
      'records after detach': [],
    });
  });

  test('stays while its file is in a pod or a process has it open, and the error names the user and the remedy', () => {
    const error = (text: string) => ({
      error: { code: 'CONFLICT', message: expect.stringMatching(new RegExp(`${text}.*detach it by force`)) },
    });
    expect(seen).toMatchObject({
      'detach while its file is in a pod': error('mounted at /run/raw'),
      'detach while its file is in a pod elsewhere': error(
        String.raw`mounted at /run/raw in the mount namespace of process \d+ \(sleep\)`,
      ),
      'detach while a process has it open': error(String.raw`open in process \d+ \(sleep\)`),
    });
  });

  test('is not taken from under a file system that no mount table shows and that is not written back yet', () => {
    expect(seen).toMatchObject({
      'detach while a file system lingers': refused('CONFLICT', 'still being written back'),
      'unmounting ended with': 0,
      'what was written back is there': true,
    });
  });

  test('waits for a daemon as long as before after a change of its size that failed', () => {
    expect(seen).toMatchObject({
      'resize that fails': [3, 86_400],
      'read without a daemon': 'still waiting',
      'the patient read ended with': 0,
    });
  });

  test('keeps the requests of a killed daemon for the next one: a pause, no error', () => {
    expect(seen).toMatchObject({
      'in flight without a daemon': true,
      'found after recovery': device(1, 64 * MIB),
      'writers ended with': [0, 0, 0, 0],
      'still writable': true,
      'queue after recovery': QUEUE,
    });
    expect(seen['pause ms']).toBeLessThan(30_000);
    // The first errors of the run are those of the attachment that is revoked on purpose.
    const beforeRevocation = kernelLog.slice(0, kernelLog.indexOf('unmounting filesystem'));
    expect(beforeRevocation).toContain('reconnected socket');
    expect(beforeRevocation).not.toContain('I/O error');
  });

  test('whose volume hangs after a restart holds nothing up, and is connected as soon as the volume opens', () => {
    expect(seen).toMatchObject({
      'waiting since': expect.stringMatching(/^20/),
      'read beside a hung volume': 'still waiting',
      'read of a volume that hung ended with': 0,
      'connected then': true,
    });
    expect(seen['recovery beside a hung volume took ms']).toBeLessThan(15_000);
  });

  test('is reconnected when its connection breaks while the daemon lives', () => {
    expect(seen['repaired within ms']).toBeLessThan(15_000);
  });

  test('grows while it is in use and never shrinks', () => {
    expect(seen).toMatchObject({
      grown: null,
      size: 96 * MIB,
      shrunk: refused('OUT_OF_RANGE', 'cannot shrink'),
    });
    expect(seen['fsck']).toBe('clean');
  });

  test('is read-only when attached so', () => {
    expect(seen).toMatchObject({ 'attached read-only': device(2, 96 * MIB, true), ro: '1' });
  });

  test('is forgotten when somebody else disconnects it', () => {
    expect(seen).toMatchObject({ 'found then': null, 'attached anew': device(3, 96 * MIB) });
  });

  test('of a revoked attachment goes, and its requests fail', () => {
    expect(seen).toMatchObject({ 'revoked device goes': true, 'write after revocation': 1 });
  });

  test('that hangs is removed by the next daemon when its attachment is over', () => {
    expect(seen).toMatchObject({
      'read of a hung device': 'still waiting',
      'recovered as not current': null,
      'the hung read ended with': 1,
      'devices left': [],
      'backend of the hung one': null,
    });
    expect(seen['removed within ms']).toBeLessThan(15_000);
  });

  test('of another daemon is left alone', () => {
    expect(seen['devices of others left alone']).toBe(1);
  });
});
