import { readFileSync } from 'node:fs';

/** Whether somebody accepts connections at this path: a socket is there a moment before that. proc(5), /proc/net/unix. */
export function isListening(socketPath: string): boolean {
  const ACCEPTS = '00010000';
  return readFileSync('/proc/net/unix', 'latin1')
    .split('\n')
    .some((line) => line.endsWith(` ${socketPath}`) && line.split(/\s+/)[3] === ACCEPTS);
}
