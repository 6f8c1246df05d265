// Holds the sources to the layers of ARCHITECTURE.md: imports point down only. Prints every import that
// does not, as path:line, and exits 1.
//   node scripts/check-layers.ts [DIRECTORY]     (default: this project's src)

import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve, sep } from 'node:path';
import { fileURLToPath } from 'node:url';

/** What each folder of src may import beside itself. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  core: [],
  replication: ['core'],
  observe: ['core'],
  dataplane: ['replication', 'core', 'observe'],
  control: ['dataplane', 'replication', 'core', 'observe'],
  host: ['dataplane', 'replication', 'core', 'observe'],
  csi: ['control', 'host', 'dataplane', 'replication', 'core', 'observe'],
  kube: ['control', 'host', 'dataplane', 'replication', 'core', 'observe'],
  cli: ['cli/daemon', 'control', 'host', 'dataplane', 'replication', 'core', 'observe'],
  // The composition root joins everything.
  'cli/daemon': ['cli', 'csi', 'kube', 'control', 'host', 'dataplane', 'replication', 'core', 'observe'],
};

/** `from '…'`, `import '…'`, `import('…')`, and `new URL('….ts', import.meta.url)` of a thread's entry. */
const IMPORT = /(?:\bfrom\s*|\bimport\s*\(?\s*|\bnew URL\(\s*)['"](\.[^'"]+\.[cm]?[jt]s)['"]/g;

function layerOf(path: string): string {
  const [first = '', second] = path.split(sep);
  return first === 'cli' && second === 'daemon' ? 'cli/daemon' : first;
}

function offences(sourceDirectory: string, file: string): string[] {
  const from = layerOf(file);
  const allowed = MAY_IMPORT[from];
  if (allowed === undefined) return [`${file}: src/${from} is no layer of ARCHITECTURE.md`];
  const text = readFileSync(join(sourceDirectory, file), 'utf8');
  const found: string[] = [];
  for (const match of text.matchAll(IMPORT)) {
    const target = relative(sourceDirectory, resolve(sourceDirectory, dirname(file), match[1] ?? ''));
    const to = layerOf(target);
    if (to === from || allowed.includes(to)) continue;
    const line = text.slice(0, match.index).split('\n').length;
    const why = target.startsWith('..')
      ? 'sources import nothing outside src'
      : `${from} may not import ${to}`;
    found.push(`${file}:${line}: ${match[1]}: ${why}`);
  }
  return found;
}

function main(): void {
  const sourceDirectory = resolve(process.argv[2] ?? fileURLToPath(new URL('../src', import.meta.url)));
  const files = readdirSync(sourceDirectory, { recursive: true, encoding: 'utf8' }).filter((path) =>
    /\.[cm]?[jt]s$/.test(path),
  );
  const found = files.sort().flatMap((file) => offences(sourceDirectory, file));
  for (const offence of found) console.error(offence);
  process.exitCode = found.length === 0 ? 0 : 1;
}

main();
