// Which node this is, apart from its name: a random number in the data directory, drawn once. Two data directories
// are never the same node, whatever name they are started with.

import { readFile } from 'node:fs/promises';
import { HoldfastError } from '../core/errors.ts';
import { hasErrno, replaceFile, storageError } from '../dataplane/durable-files.ts';
import { drawId } from './names.ts';

/** Durable when it resolves. CORRUPT when the file holds no id. */
export async function loadNodeId(path: string): Promise<string> {
  let text: string;
  try {
    text = await readFile(path, 'ascii');
  } catch (error) {
    if (hasErrno(error, 'ENOENT')) return await drawNodeId(path);
    throw storageError(error, `reading ${path}`);
  }
  const id = text.trim();
  if (/^[0-9a-f]{32}$/.test(id)) return id;
  throw new HoldfastError(
    'CORRUPT',
    `${path} does not hold this node's id (32 hex digits): "holdfast node show NAME" on another node tells it`,
  );
}

async function drawNodeId(path: string): Promise<string> {
  const id = drawId();
  try {
    await replaceFile(path, Buffer.from(`${id}\n`));
  } catch (error) {
    throw storageError(error, `writing ${path}`);
  }
  return id;
}
