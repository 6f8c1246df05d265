// `npm run build`: bundles src/ and the packages it uses to dist/ for the image: a start reads a handful of files instead
// of hundreds. Development needs no build: the pinned Node.js runs the sources as they are.
//   node scripts/build.ts [DIRECTORY]     (default: this project's dist)

import { rm } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { build } from 'rolldown';

const root = fileURLToPath(new URL('..', import.meta.url));
const directory = process.argv[2] ?? `${root}dist`;

await rm(directory, { recursive: true, force: true });
await build({
  cwd: root,
  // Each is started by its file's name: the program, data-plane threads, and helper processes.
  input: {
    main: 'src/cli/main.ts',
    worker: 'src/dataplane/worker.ts',
    'preflight-worker': 'src/cli/preflight-worker.ts',
    'device-users-worker': 'src/host/device-users-worker.ts',
  },
  platform: 'node',
  // It loads a build of its own for each kind of machine.
  external: ['classic-level'],
  // A warning may be an import that is not resolved, and would be missed when it is reached and not before.
  onLog(level, log) {
    if (level === 'warn') throw new Error(`the bundle is not whole: ${log.message}`);
  },
  output: { dir: directory, format: 'esm', entryFileNames: '[name].js' },
});
