// The one executable's entry. Compiled code is cached beside the packages (NODE_COMPILE_CACHE: elsewhere), where
// that may be written: a start takes half the time. The cache is keyed by contents and Node version, checked when
// it is read, and never needed: without a writable directory there is none.

import { enableCompileCache } from 'node:module';
import { packageFile } from '../dataplane/package-files.ts';

const cache = enableCompileCache(
  process.env['NODE_COMPILE_CACHE'] ?? packageFile('node_modules/.cache/holdfast'),
);
// Threads and helper processes look there for it.
if (cache.directory !== undefined) process.env['NODE_COMPILE_CACHE'] ??= cache.directory;

// A reader that has seen enough (`| head`) is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit();
  throw error;
});

if (process.argv[2] === 'daemon') {
  const { becomeIoFlusher } = await import('./daemon/io-flusher.ts');
  becomeIoFlusher();
}
const { runProgram } = await import('./program.ts');
await runProgram();
