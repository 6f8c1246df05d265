// The program as an image has it (Dockerfile): the bundle that `npm run build` makes, and what it reads.

import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';

const REPOSITORY = join(import.meta.dirname, '../..');

/** Makes it below `directory`. Returns the path of its bin/holdfast. */
export function makeImage(directory: string): string {
  const image = join(directory, 'image');
  mkdirSync(join(image, 'native'), { recursive: true });
  execFileSync(process.execPath, [join(REPOSITORY, 'scripts/build.ts'), join(image, 'dist')]);
  // Not all that is there: a build beside it makes and removes directories there.
  for (const part of ['package.json', 'bin', 'proto', 'native/build/holdfast.node', 'native/build/launch'])
    cpSync(join(REPOSITORY, part), join(image, part), { recursive: true });
  symlinkSync(join(REPOSITORY, 'node_modules'), join(image, 'node_modules'));
  return join(image, 'bin/holdfast');
}
