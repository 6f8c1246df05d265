// Files that come with the program, whether it runs from its sources or from the bundle of an image: wherever the running
// module lies, they are named from the package's root.

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = findRoot(new URL('.', import.meta.url));

function findRoot(directory: URL): URL {
  if (existsSync(new URL('package.json', directory))) return directory;
  const parent = new URL('..', directory);
  if (parent.href === directory.href) throw new Error(`no package.json above ${import.meta.url}`);
  return findRoot(parent);
}

/** The path of a file of the package, as 'proto/csi.proto'. */
export function packageFile(path: string): string {
  return fileURLToPath(new URL(path, root));
}
