// `npm run build`: compiles src/ to dist/ for the image. Development needs no build: the pinned Node.js
// runs the sources as they are.

import { rm } from 'node:fs/promises';
import { execa } from 'execa';

const root = new URL('..', import.meta.url);
await rm(new URL('dist', root), { recursive: true, force: true });
const result = await execa('tsc', ['-p', 'tsconfig.build.json'], {
  cwd: root,
  preferLocal: true,
  reject: false,
  stdio: ['ignore', 'inherit', 'inherit'],
});
process.exitCode = result.exitCode ?? 1;
