// Exits 0 when node_modules holds what package-lock.json asks for, by npm's own record of what it last
// installed. The record is written last, so an interrupted installation never looks complete.

import { readFileSync } from 'node:fs';

interface LockFile {
  readonly packages: Readonly<Record<string, { version?: string; integrity?: string; optional?: boolean }>>;
}

function packagesOf(path: string): LockFile['packages'] {
  return (JSON.parse(readFileSync(path, 'utf8')) as LockFile).packages;
}

function isCurrent(): boolean {
  try {
    const installed = packagesOf('node_modules/.package-lock.json');
    // Optional packages are there for one platform each, and absent elsewhere.
    return Object.entries(packagesOf('package-lock.json')).every(
      ([path, wanted]) =>
        path === '' ||
        (installed[path] === undefined
          ? wanted.optional === true
          : installed[path].version === wanted.version && installed[path].integrity === wanted.integrity),
    );
  } catch {
    return false;
  }
}

process.exitCode = isCurrent() ? 0 : 1;
