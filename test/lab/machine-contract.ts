// What every machine promises. Runs for a guest and for this host.

import { expect, test } from 'vitest';
import { type Machine, mustRun } from './machine.ts';

export function machineContract(machine: () => Machine): void {
  test('returns output and exact exit codes of commands that run beside each other', async () => {
    const results = await Promise.all(
      Array.from({ length: 12 }, (_, index) =>
        machine().run(`sleep 0.${index % 3}; seq ${index * 2000}; echo error ${index} >&2; exit ${index}`),
      ),
    );
    for (const [index, result] of results.entries()) {
      expect(result.exitCode).toBe(index);
      expect(result.stderr).toBe(`error ${index}\n`);
      expect(result.stdout.split('\n').length - 1).toBe(index * 2000);
    }
  });

  test('takes argument vectors that no shell interprets, and environment', async () => {
    const words = ["it's", '$HOME', 'two words', '', '"'];
    expect(await mustRun(machine(), ['printf', '%s|', ...words])).toBe(`${words.join('|')}|`);
    expect(await mustRun(machine(), 'echo "$WORD"', { env: { WORD: "a 'b' $c" } })).toBe("a 'b' $c\n");
  });

  test('stops a command and its children at the time limit', async () => {
    const nap = `sleep 4711.${process.pid}`;
    await expect(machine().run(`${nap} & ${nap}`, { timeoutMs: 500 })).rejects.toThrow('after 500 ms');
    const processes = (await mustRun(machine(), ['ps', 'axo', 'args'])).split('\n');
    expect(processes).not.toContain(nap);
  });

  test('reports a job that was killed as a shell does', async () => {
    const job = machine().start('echo started; sleep 4711');
    await expect.poll(() => job.stdout(), { timeout: 10_000 }).toBe('started\n');
    job.kill('KILL');
    expect((await job.ended).exitCode).toBe(137);
  });
}
