// Ends of life, one per name: `node life.ts NAME`. Each runs in a process of its own, because the point is
// how that process ends. Prints `alive` when the moment under test has been reached; the exit code is the
// case's own. A thread that is to block here blocks for good: only the addon's own look-out ends it.

import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { isMainThread, Worker, workerData } from 'node:worker_threads';
import { native } from '../../../src/dataplane/native.ts';
import { OP, TestRing } from '../test-ring.ts';

type WorkerLife = 'blocked' | 'spinning' | 'exit' | 'throw' | 'everything';

const silentEvent = native.eventFd();
const [silentSocket] = native.socketPair(0);

/** A ring whose requests never complete by themselves. */
function ringInFlight(): TestRing {
  const ring = new TestRing();
  ring.push({ opcode: OP.read, fd: silentEvent, address: ring.arena.address, length: 8 });
  ring.push({ opcode: OP.recv, fd: silentSocket, address: ring.arena.address + 4096, length: 4096 });
  ring.enter(0);
  return ring;
}

function inWorker(life: WorkerLife): Promise<Worker> {
  const state = new Int32Array(new SharedArrayBuffer(4));
  const worker = new Worker(fileURLToPath(import.meta.url), { workerData: { life, state } });
  worker.on('error', (error) => console.log(error.message));
  return new Promise((resolve) => {
    const isThere = Atomics.waitAsync(state, 0, 0, 20_000);
    void Promise.resolve(isThere.value).then(() => setTimeout(() => resolve(worker), 50));
  });
}

function sayAlive(): void {
  console.log('alive');
}

async function terminated(worker: Worker): Promise<void> {
  const start = native.bootTimeMs();
  await worker.terminate();
  if (native.bootTimeMs() - start > 15_000) throw new Error('the thread ended late');
}

const MAIN_LIVES: Record<string, () => void | Promise<void>> = {
  'ring open': () => {
    new TestRing();
    sayAlive();
  },
  'requests in flight': () => {
    ringInFlight();
    sayAlive();
  },
  'process.exit with requests in flight': () => {
    ringInFlight();
    sayAlive();
    process.exit(3);
  },
  'uncaught exception': () => {
    ringInFlight();
    sayAlive();
    throw new Error('uncaught');
  },
  'rings forgotten': () => {
    for (let i = 0; i < 20; i++) new TestRing();
    (globalThis as { gc?: () => void }).gc?.();
    sayAlive();
  },
  'closed twice': () => {
    const ring = ringInFlight();
    ring[Symbol.dispose]();
    ring[Symbol.dispose]();
    sayAlive();
  },
  'used after close': () => {
    const ring = ringInFlight();
    ring[Symbol.dispose]();
    for (const use of [
      () => ring.enter(0),
      () => native.registerFiles(ring.ring, 1),
      () => ring.bytes.writeUInt8(1),
    ]) {
      try {
        use();
        console.log('went through');
      } catch {
        // that is what it should do
      }
    }
    sayAlive();
  },
  'buffer transferred, then the end': () => {
    const { ring, arena } = ringInFlight();
    const moved = [ring.memory.transfer(), arena.buffer.transfer()];
    for (const free of [() => native.closeRing(ring), () => native.freeMemory(arena)]) {
      try {
        free();
        console.log('freed');
      } catch {
        for (const buffer of moved) new Uint8Array(buffer)[buffer.byteLength - 1] = 1;
      }
    }
    sayAlive();
  },
  'child processes while requests are in flight': () => {
    using ring = ringInFlight();
    for (let i = 0; i < 5; i++) {
      ring.bytes.fill(i);
      const open = execFileSync('ls', ['-l', '/proc/self/fd'], { encoding: 'utf8' });
      if (/io_uring|eventfd/.test(open.replace(/.*\n/, ''))) console.log(`inherited: ${open}`);
    }
    sayAlive();
  },
  'kernel NBD calls unanswered': () => {
    for (let i = 0; i < 8; i++) void native.nbdStatus(-1).catch(() => undefined);
    sayAlive();
    process.exit(3);
  },
  'worker terminated while it waits': async () => {
    await terminated(await inWorker('blocked'));
    sayAlive();
  },
  'worker terminated while it polls': async () => {
    await terminated(await inWorker('spinning'));
    sayAlive();
  },
  'process.exit while a worker waits': async () => {
    await inWorker('blocked');
    sayAlive();
    process.exit(3);
  },
  'process.exit in a worker': async () => {
    const worker = await inWorker('exit');
    if (worker.threadId !== -1) await new Promise((resolve) => worker.once('exit', resolve));
    new TestRing().run({ opcode: OP.nop });
    sayAlive();
  },
  'exception in a worker': async () => {
    const worker = await inWorker('throw');
    if (worker.threadId !== -1) await new Promise((resolve) => worker.once('exit', resolve));
    sayAlive();
  },
  'workers terminated at any moment': async () => {
    for (let i = 0; i < 12; i++) {
      const worker = await inWorker('everything');
      await new Promise((resolve) => setTimeout(resolve, i * 7));
      await terminated(worker);
    }
    sayAlive();
  },
};

const WORKER_LIVES: Record<WorkerLife, (here: () => void) => void> = {
  blocked: (here) => {
    const ring = ringInFlight();
    here();
    for (;;) ring.enter(1);
  },
  spinning: (here) => {
    const ring = ringInFlight();
    here();
    for (;;) ring.enter(1, { spinMicros: 1_000_000 });
  },
  exit: (here) => {
    ringInFlight();
    here();
    process.exit(5);
  },
  throw: (here) => {
    ringInFlight();
    here();
    throw new Error('thrown in the worker');
  },
  everything: (here) => {
    here();
    for (;;) {
      const ring = ringInFlight();
      ring.run({ opcode: OP.nop });
      native.probeRing();
      native.crc32c(ring.bytes, 0, ring.bytes.length, 0);
      native.enter(ring.ring, 0, 16, 0, 1000);
      void native.nbdStatus(-1).catch(() => undefined);
      try {
        native.close(1 << 20);
      } catch {
        // EBADF
      }
      ring[Symbol.dispose]();
    }
  },
};

if (isMainThread) {
  await MAIN_LIVES[process.argv[2] ?? '']?.();
} else {
  const { life, state } = workerData as { life: WorkerLife; state: Int32Array };
  WORKER_LIVES[life](() => {
    Atomics.store(state, 0, 1);
    Atomics.notify(state, 0);
  });
}
