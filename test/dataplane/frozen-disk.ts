// What kill -9 leaves on the disk, without the price of a process for each step: the n-th change of the disk
// that an operation asks for, and all after it, never happen and never return. The system calls before it have
// been made, those after it have not, and no code of the operation runs any more. Removing a directory counts
// twice, since it is many calls: the second time one of its files is gone.

import fs, { type FileHandle } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';

const HANDLE_NAMES = ['write', 'truncate', 'sync', 'datasync'] as const;

type Method = (this: unknown, ...args: unknown[]) => Promise<unknown>;

/** Runs `operation` up to its n-th change (from 1). True: it came to its end before. Its files are closed then. */
export async function runUntilStep(step: number, operation: () => Promise<unknown>): Promise<boolean> {
  const opened: FileHandle[] = [];
  let steps = 0;
  let freeze = (): void => undefined;
  const frozen = new Promise<boolean>((resolve) => {
    freeze = () => resolve(false);
  });
  const counted = (original: Method): Method =>
    function count(this: unknown, ...args) {
      if (++steps < step) return original.apply(this, args);
      freeze();
      return new Promise(() => undefined);
    };
  const handles = await handlePrototype();
  const restore = [
    replace(fs, ['mkdir', 'rename'], counted),
    replace(
      fs,
      ['open'],
      (original) =>
        async function openCounted(this: unknown, ...args) {
          const file = (await counted(original).apply(this, args)) as FileHandle;
          opened.push(file);
          return file;
        },
    ),
    replace(
      fs,
      ['rm'],
      (original) =>
        async function removeCounted(this: unknown, ...args) {
          await counted(() => Promise.resolve()).apply(this, []);
          if (steps + 1 === step) await removeOneFile(String(args[0]));
          return counted(original).apply(this, args);
        },
    ),
    replace(handles, HANDLE_NAMES, counted),
  ];
  syncBuiltinESMExports();
  try {
    return await Promise.race([operation().then(() => true), frozen]);
  } finally {
    for (const undo of restore) undo();
    syncBuiltinESMExports();
    for (const file of opened) await file.close();
  }
}

async function removeOneFile(directory: string): Promise<void> {
  const [name] = await fs.readdir(directory).catch(() => []);
  if (name !== undefined) await fs.unlink(join(directory, name));
}

async function handlePrototype(): Promise<object> {
  const probe = await fs.open('/dev/null', 'r');
  await probe.close();
  return Object.getPrototypeOf(probe) as object;
}

function replace(target: object, names: readonly string[], by: (original: Method) => Method): () => void {
  const methods = target as Record<string, Method>;
  const originals = names.map((name) => {
    const original = methods[name];
    if (original === undefined) throw new Error(`there is no method ${name} to count`);
    methods[name] = by(original);
    return [name, original] as const;
  });
  return () => {
    for (const [name, original] of originals) methods[name] = original;
  };
}
