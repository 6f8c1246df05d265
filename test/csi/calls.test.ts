import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { status } from '@grpc/grpc-js';
import { describe, expect, test, vi } from 'vitest';
import { HoldfastError } from '../../src/core/errors.ts';
import { InvariantError } from '../../src/core/invariant.ts';
import { Calls } from '../../src/csi/calls.ts';
import { silentLogger } from '../../src/observe/log.ts';
import { CsiWorld } from '../support/csi-world.ts';

function open({ answerTimeoutMs = 5000, onBroken = vi.fn() } = {}) {
  return new Calls({ log: silentLogger, answerTimeoutMs, onBroken });
}

describe('calls for one volume', () => {
  test('do not overlap: a second one is ABORTED, and runs when the first has ended', async () => {
    const calls = open();
    const gate = Promise.withResolvers<void>();
    const request = { volume_id: 'v' };
    const first = calls.run('NodeStageVolume', request, async () => await gate.promise);
    for (const method of ['NodeStageVolume', 'NodeUnpublishVolume']) {
      expect(await calls.run(method, request, async () => 'ran')).toMatchObject({
        code: status.ABORTED,
        details: expect.stringContaining('NodeStageVolume'),
      });
    }
    gate.resolve();
    await first;
    expect(await calls.run('NodeStageVolume', request, async () => 'ran')).toEqual({ reply: 'ran' });
  });

  test.each([
    ['another volume', 'NodeStageVolume', { volume_id: 'w' }],
    ['a call that only reads', 'NodeGetVolumeStats', { volume_id: 'v' }],
    ['a revocation by the controller', 'ControllerUnpublishVolume', { volume_id: 'v' }],
  ])('do not hold up %s', async (_, method, request) => {
    const calls = open();
    const gate = Promise.withResolvers<void>();
    const first = calls.run('NodeStageVolume', { volume_id: 'v' }, async () => await gate.promise);
    expect(await calls.run(method, request, async () => 'ran')).toEqual({ reply: 'ran' });
    gate.resolve();
    await first;
  });

  test('that take too long are answered, and keep the volume until they have ended', async () => {
    const calls = open({ answerTimeoutMs: 20 });
    const gate = Promise.withResolvers<void>();
    const request = { volume_id: 'v' };
    const late = await calls.run('NodeStageVolume', request, async () => await gate.promise);
    expect(late).toMatchObject({ code: status.DEADLINE_EXCEEDED });
    expect(await calls.run('NodeStageVolume', request, async () => 'ran')).toMatchObject({
      code: status.ABORTED,
    });
    gate.resolve();
    await calls.drained();
    expect(await calls.run('NodeStageVolume', request, async () => 'ran')).toEqual({ reply: 'ran' });
  });

  test('that fail after their answer was due are logged, and a broken invariant still stops the process', async () => {
    const onBroken = vi.fn();
    const logged = vi.fn();
    const log = { ...silentLogger, warn: logged, error: logged };
    const calls = new Calls({ log, answerTimeoutMs: 20, onBroken });
    const request = { volume_id: 'v' };
    for (const error of [
      new HoldfastError('CONFLICT', 'no'),
      new Error('oops'),
      new InvariantError('broken invariant: x'),
    ]) {
      const gate = Promise.withResolvers<void>();
      const late = await calls.run('NodeStageVolume', request, async () => await gate.promise);
      expect(late).toMatchObject({ code: status.DEADLINE_EXCEEDED });
      gate.reject(error);
      await calls.drained();
      expect(logged).toHaveBeenLastCalledWith(
        expect.objectContaining({ method: 'NodeStageVolume', volumeId: 'v', error }),
        expect.stringContaining('after its answer was due'),
      );
    }
    expect(onBroken.mock.calls).toEqual([[new InvariantError('broken invariant: x')]]);
  });

  test('free the volume when they fail', async () => {
    const calls = open();
    const fail = async () => {
      throw new Error('oops');
    };
    const failed = { code: status.ABORTED, details: 'oops' };
    expect(await calls.run('NodeStageVolume', { volume_id: 'v' }, fail)).toEqual(failed);
    expect(await calls.run('NodeStageVolume', { volume_id: 'v' }, fail)).toEqual(failed);
  });

  test('of CreateVolume are those with the same name', async () => {
    const calls = open();
    const gate = Promise.withResolvers<void>();
    const first = calls.run('CreateVolume', { name: 'a' }, async () => await gate.promise);
    expect(await calls.run('CreateVolume', { name: 'a' }, async () => 'ran')).toMatchObject({
      code: status.ABORTED,
    });
    expect(await calls.run('CreateVolume', { name: 'b' }, async () => 'ran')).toEqual({ reply: 'ran' });
    gate.resolve();
    await first;
  });

  test('that break an invariant stop the process', async () => {
    const onBroken = vi.fn();
    const error = new InvariantError('broken invariant: x');
    const outcome = await open({ onBroken }).run('NodeStageVolume', { volume_id: 'v' }, async () => {
      throw error;
    });
    expect(outcome).toMatchObject({ code: status.ABORTED });
    expect(onBroken).toHaveBeenCalledWith(error);
  });
});

describe('the socket', () => {
  test('of a living daemon is refused, that of a dead one replaced, a file never', async () => {
    const world = await CsiWorld.open();
    const directory = mkdtempSync(join(tmpdir(), 'holdfast-socket-'));
    try {
      const second = CsiWorld.open({ socketPath: world.socketPath });
      await expect(second).rejects.toMatchObject({ code: 'CONFLICT' });
      writeFileSync(join(directory, 'file'), 'x');
      const third = CsiWorld.open({ socketPath: join(directory, 'file') });
      await expect(third).rejects.toMatchObject({ code: 'CONFLICT' });
      expect(await world.outcome('Probe', {})).toBe('OK');
    } finally {
      await world.close();
      rmSync(directory, { recursive: true });
    }
  });
});
