// The one executable's entry. Compiled code is cached beside the packages, where that may be written: a
// command starts in half the time. The cache is keyed by contents and Node version, and never trusted beyond.

import { enableCompileCache } from 'node:module';
import { fileURLToPath } from 'node:url';

enableCompileCache(fileURLToPath(new URL('../../node_modules/.cache/holdfast', import.meta.url)));

// A reader that has seen enough (`| head`) is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit();
  throw error;
});

const { runProgram } = await import('./program.ts');
await runProgram();
