// What the lab needs on this machine, and the exact command that brings what is missing.

import { accessSync, constants, readdirSync } from 'node:fs';
import { delimiter, join } from 'node:path';

const UML_MODULES_DIR = '/usr/lib/uml/modules';

/** Program → Debian package, for any guest. */
const GUEST_PROGRAMS: Readonly<Record<string, string>> = {
  'linux.uml': 'user-mode-linux',
  modprobe: 'kmod',
  bash: 'bash',
  setsid: 'util-linux',
  ip: 'iproute2',
};

/** What lab tests use besides, here and inside guests, whose root file system is this machine's. */
const TEST_PROGRAMS: Readonly<Record<string, string>> = {
  uml_switch: 'uml-utilities',
  'qemu-storage-daemon': 'qemu-system-common',
  fio: 'fio',
  'mkfs.ext4': 'e2fsprogs',
  'mkfs.xfs': 'xfsprogs',
  dmsetup: 'dmsetup',
};

export interface Missing {
  readonly packages: readonly string[];
  /** The command to type. */
  readonly remedy: string;
}

/** undefined when everything is here. Runs no process. */
export function missingRequirements(purpose: 'guest' | 'tests'): Missing | undefined {
  const programs = purpose === 'guest' ? GUEST_PROGRAMS : { ...GUEST_PROGRAMS, ...TEST_PROGRAMS };
  const missing = new Set<string>();
  for (const [program, packageName] of Object.entries(programs)) {
    if (findProgram(program) === undefined) missing.add(packageName);
  }
  if (umlKernelVersion() === undefined) missing.add('user-mode-linux');
  if (missing.size === 0) return undefined;
  const packages = [...missing].sort();
  const remedy = `apt-get update && apt-get install -y --no-install-recommends ${packages.join(' ')}`;
  return { packages, remedy };
}

/** The newest guest kernel whose modules are installed: the package's version moves. */
export function umlKernelVersion(): string | undefined {
  try {
    const byNumber = new Intl.Collator('en', { numeric: true });
    return readdirSync(UML_MODULES_DIR).sort(byNumber.compare).at(-1);
  } catch {
    return undefined; // no such directory: the package is not installed
  }
}

export function findProgram(program: string): string | undefined {
  const directories = [
    ...(process.env['PATH'] ?? '').split(delimiter),
    '/usr/local/sbin',
    '/usr/sbin',
    '/sbin',
  ];
  return directories.map((directory) => join(directory, program)).find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
