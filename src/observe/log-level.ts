// How serious an event must be to be logged. Apart from the logger, which commands need not load.

export const LOG_LEVELS = ['error', 'warn', 'info', 'debug'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];
