// Signals an eventfd from a thread of its own, a little after it was told to.

import { parentPort, workerData } from 'node:worker_threads';
import { native } from '../../../src/dataplane/native.ts';

const { fd, delayMs } = workerData as { fd: number; delayMs: number };
parentPort?.once('message', () => {
  setTimeout(() => native.signalEventFd(fd), delayMs);
});
parentPort?.postMessage('ready');
