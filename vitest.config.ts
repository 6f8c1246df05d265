// Four projects: `unit`, `lab` (guests with their own kernel) and `cluster` (three daemons and etcd each, which wait
// more than they work) run two files side by side, since a guest takes a core; `csi-sanity` runs alone. Nothing is
// retried.

import { defineConfig } from 'vitest/config';

const slow = { testTimeout: 600_000, hookTimeout: 180_000 } as const;

export default defineConfig({
  test: {
    // A process of its own for each file: the addon, signals and rlimits belong to processes.
    pool: 'forks',
    // V8 loses count of its code pages where threads come and go, and ends the process by that ("Check failed:
    // jit_page.has_value()"), on processors with protection keys.
    execArgv: ['--no-memory-protection-keys'],
    retry: 0,
    // What comes true soon may take longer beside another test file.
    expect: { poll: { timeout: 10_000 } },
    projects: [
      {
        extends: true,
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: ['test/lab/**', 'test/cluster/**', 'test/csi-sanity/**'],
          maxWorkers: 2,
          testTimeout: 30_000,
          hookTimeout: 60_000,
          sequence: { groupOrder: 0 },
        },
      },
      {
        extends: true,
        test: {
          name: 'lab',
          include: ['test/lab/**/*.test.ts'],
          ...slow,
          maxWorkers: 2,
          sequence: { groupOrder: 1 },
        },
      },
      {
        extends: true,
        test: {
          name: 'cluster',
          include: ['test/cluster/**/*.test.ts'],
          ...slow,
          maxWorkers: 2,
          sequence: { groupOrder: 3 },
        },
      },
      {
        extends: true,
        test: {
          name: 'csi-sanity',
          include: ['test/csi-sanity/**/*.test.ts'],
          ...slow,
          fileParallelism: false,
          maxWorkers: 1,
          sequence: { groupOrder: 2 },
        },
      },
    ],
  },
});
