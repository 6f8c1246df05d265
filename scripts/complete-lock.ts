// Completes package-lock.json after `npm install`. npm leaves out packages for other platforms that the
// registry at hand does not serve, and `npm ci` then refuses the whole lockfile, here and elsewhere. Their names
// and exact versions stand in the packages that want them; npm never fetches what is for another platform.
//   --check   writes nothing; exits 1 when something is missing

import { readFileSync, writeFileSync } from 'node:fs';

interface Entry {
  readonly version?: string;
  readonly dev?: true;
  readonly peer?: true;
  readonly optional?: true;
  readonly cpu?: readonly string[];
  readonly os?: readonly string[];
  readonly libc?: readonly string[];
  readonly optionalDependencies?: Readonly<Record<string, string>>;
}

const LOCK_FILE = new URL('../package-lock.json', import.meta.url);
const SYSTEMS = ['android', 'darwin', 'freebsd', 'linux', 'openharmony', 'win32'];
const PROCESSORS = ['arm', 'arm64', 'ia32', 'ppc64', 'riscv64', 's390x', 'x64'];

/** The entry of a package for one platform, which its name tells: `@scope/binding-linux-x64-musl`. */
function platformEntry(name: string, version: string, wantedBy: Entry): Entry {
  const words = name.split(/[-/]/);
  const cpu = words.filter((word) => PROCESSORS.includes(word));
  const os = words.filter((word) => SYSTEMS.includes(word));
  if (cpu.length === 0 || os.length === 0) {
    throw new Error(
      `${name} is missing from package-lock.json, and its name tells no platform: npm install it`,
    );
  }
  return {
    version,
    cpu,
    ...(wantedBy.dev && { dev: true as const }),
    ...(name.endsWith('-musl') && { libc: ['musl'] }),
    ...(/-gnu(eabihf)?$/.test(name) && { libc: ['glibc'] }),
    optional: true,
    os,
    ...(wantedBy.peer && { peer: true as const }),
  };
}

const lock = JSON.parse(readFileSync(LOCK_FILE, 'utf8')) as { packages: Record<string, Entry> };
const missing = new Map<string, Entry>();
for (const entry of Object.values(lock.packages)) {
  for (const [name, version] of Object.entries(entry.optionalDependencies ?? {})) {
    const path = `node_modules/${name}`;
    if (lock.packages[path] === undefined) missing.set(path, platformEntry(name, version, entry));
  }
}
if (missing.size > 0 && process.argv.includes('--check')) {
  console.error(
    `package-lock.json lacks ${[...missing.keys()].join(', ')}; type: node scripts/complete-lock.ts`,
  );
  process.exitCode = 1;
} else if (missing.size > 0) {
  const entries = [...Object.entries(lock.packages), ...missing];
  entries.sort(([a], [b]) => a.localeCompare(b, 'en'));
  lock.packages = Object.fromEntries(entries);
  writeFileSync(LOCK_FILE, `${JSON.stringify(lock, null, 2)}\n`);
}
