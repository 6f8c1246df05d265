// What threads and processes do, as /proc tells. One that sleeps in the kernel for a disk (state D) is beyond every
// signal, and a process that was told to end keeps all it holds until the last of its threads has left that sleep.

import { readFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';

/** Of a process's first thread: it will never do anything again, or not before a disk answers. */
const ENDING = ['Z', 'X', 'D'];

export function isThreadInDiskSleep(threadId: number): boolean {
  try {
    return stateOf(readFileSync(`/proc/self/task/${threadId}/stat`, 'latin1')) === 'D';
  } catch {
    return false; // it has ended
  }
}

/** Why nobody gets what the process holds, and what to do; undefined: it is alive, or long gone. */
export async function whyNotEnded(processId: number): Promise<string | undefined> {
  if (!Number.isSafeInteger(processId) || processId <= 0) return undefined;
  const state = await readState(`/proc/${processId}/stat`);
  if (state === undefined || !ENDING.includes(state)) return undefined;
  // A zombie without such a thread holds nothing: its parent has not looked yet.
  if (!(await threadStates(processId)).includes('D')) return undefined;
  return (
    `process ${processId} is ending but waits for a disk that does not answer (its state is D): mend that disk, ` +
    'or reboot the machine'
  );
}

async function threadStates(processId: number): Promise<(string | undefined)[]> {
  const directory = `/proc/${processId}/task`;
  const threads = await readdir(directory).catch(() => []);
  return await Promise.all(threads.map((thread) => readState(`${directory}/${thread}/stat`)));
}

async function readState(path: string): Promise<string | undefined> {
  const stat = await readFile(path, 'latin1').catch(() => undefined);
  return stat === undefined ? undefined : stateOf(stat);
}

/** The state follows the name, which may hold anything. */
function stateOf(stat: string): string {
  return stat.charAt(stat.lastIndexOf(')') + 2);
}
