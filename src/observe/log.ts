// The log: one JSON line an event, on standard error, with fixed keys (`volumeId`, `replicaId`, `pool`,
// `device`, sizes and times with their unit last). error: someone must act; warn: degraded; info: a change
// of state; debug: the rest. Nothing per request above debug, no secrets at any level.

import { pino } from 'pino';
import type { LogLevel } from './log-level.ts';

export type Logger = pino.Logger;

/** Lines are written before the call returns, so that the last words of a process that stops are there. */
export function createLogger(options: { level: LogLevel; node: string }): Logger {
  return pino(
    {
      level: options.level,
      base: { node: options.node },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { error: pino.stdSerializers.err },
      errorKey: 'error',
    },
    pino.destination({ fd: 2, sync: true }),
  );
}

/** For commands and tests that have nothing to say. */
export const silentLogger: Logger = pino({ level: 'silent' });
