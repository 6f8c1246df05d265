// `npm run demo`: the main job of Holdfast, start to end, on the embedded store. A volume is created, staged and
// published through CSI; an application writes to it; the daemon is killed under it and started again; what was
// written is verified from the device. Ends non-zero if anything is off, and leaves nothing behind.

import { setTimeout as sleep } from 'node:timers/promises';
import { Listr } from 'listr2';
import prettyBytes from 'pretty-bytes';
import { errorText } from '../src/core/errors.ts';
import { GIB, MIB, roundUp } from '../src/core/units.ts';
import { type CsiCall, csiCalls } from '../test/lab/csi-calls.ts';
import { LabDaemon } from '../test/lab/daemon.ts';
import { LabError, type Machine, mustRun, tail } from '../test/lab/machine.ts';
import { type FioFigures, readFio, runFio, startFio } from './demo/fio.ts';
import { type DemoLab, openDemoLab } from './demo/lab.ts';

const VOLUME_BYTES = 4 * GIB;
const WARM_UP_BYTES = 16 * MIB;
/** The interrupted job is sized to write for about this long on this machine. */
const INTERRUPTED_SECONDS = 10;
/** Of the job's writes, when the daemon is killed: in the middle of them however fast they go. */
const KILL_AFTER_FRACTION = 0.25;
const NODE = 'lab';
const CAPABILITY = { mount: { fs_type: 'ext4' }, access_mode: { mode: 'SINGLE_NODE_WRITER' } };
const KERNEL_COMPLAINTS =
  /I\/O error|EXT4-fs (error|warning)|Aborting journal|read-only|lost async page write/i;

class Demo {
  readonly #lab: DemoLab;
  readonly #machine: Machine;
  readonly #staging: string;
  readonly #target: string;
  #daemon: LabDaemon | undefined;
  #volumeId = '';
  #publishContext: unknown = {};
  #interruptedBytes = WARM_UP_BYTES;
  device = '';
  undisturbed: FioFigures | undefined;
  interrupted: FioFigures | undefined;
  requestsInFlight = 0;
  downMs = 0;

  constructor(lab: DemoLab) {
    this.#lab = lab;
    this.#machine = lab.machine;
    this.#staging = `${lab.dir}/staging`;
    this.#target = `${lab.dir}/target`;
  }

  async startDaemon(): Promise<void> {
    const { dir, runDir } = this.#lab;
    this.#daemon = await LabDaemon.start(this.#machine, {
      dataDir: `${dir}/daemon`,
      poolDir: `${dir}/pool`,
      apiPath: `${dir}/api.sock`,
      csiPath: `${dir}/csi.sock`,
      flags: runDir === undefined ? [] : ['--run-dir', runDir],
    });
  }

  async provision(): Promise<void> {
    const [created] = await this.#csi({
      service: 'Controller',
      method: 'CreateVolume',
      request: {
        name: 'demo',
        capacity_range: { required_bytes: VOLUME_BYTES },
        volume_capabilities: [CAPABILITY],
      },
    });
    this.#volumeId = (created as { volume: { volume_id: string } }).volume.volume_id;
    const [published] = await this.#csi({
      service: 'Controller',
      method: 'ControllerPublishVolume',
      request: { volume_id: this.#volumeId, node_id: NODE, volume_capability: CAPABILITY },
    });
    this.#publishContext = published?.['publish_context'] ?? {};
  }

  async mount(): Promise<void> {
    await mustRun(this.#machine, `mkdir -p ${this.#staging}`);
    await this.#csi(
      this.#node('NodeStageVolume'),
      this.#node('NodePublishVolume', { target_path: this.#target }),
    );
    this.device = (await mustRun(this.#machine, ['findmnt', '-no', 'SOURCE', this.#target])).trim();
  }

  async unmount(): Promise<void> {
    await this.#csi(
      this.#node('NodeUnpublishVolume', { target_path: this.#target }),
      this.#node('NodeUnstageVolume'),
    );
  }

  async writeUndisturbed(): Promise<void> {
    const job = { file: `${this.#target}/undisturbed`, sizeBytes: WARM_UP_BYTES } as const;
    this.undisturbed = await runFio(this.#machine, { ...job, step: 'write' });
    await runFio(this.#machine, { ...job, step: 'check' });
    const wanted = this.undisturbed.iops * 4096 * INTERRUPTED_SECONDS;
    this.#interruptedBytes = Math.min(roundUp(wanted, MIB), VOLUME_BYTES / 2);
  }

  /** Of the device; on a busy machine fio may be between a batch of answers and its next requests, so a few looks. */
  async #countInFlight(): Promise<number> {
    for (let look = 0; look < 50; look += 1) {
      const counts = await mustRun(this.#machine, ['cat', `${this.#statistics}/inflight`]);
      const count = counts
        .trim()
        .split(/\s+/)
        .map(Number)
        .reduce((sum, each) => sum + each, 0);
      if (count > 0) return count;
      await sleep(20);
    }
    return 0;
  }

  /** Kills the daemon while fio writes, starts it again, and has fio finish. */
  async writeInterrupted(): Promise<void> {
    const file = `${this.#target}/interrupted`;
    const fio = startFio(this.#machine, { file, sizeBytes: this.#interruptedBytes, step: 'write' });
    await this.#writesOfDevice(KILL_AFTER_FRACTION * (this.#interruptedBytes / 4096));
    await this.#countInFlight();
    const killedAt = performance.now();
    await this.#daemon?.kill();
    // Nobody answers from here on: what waits now waits for the next daemon.
    this.requestsInFlight = await this.#countInFlight();
    if (this.requestsInFlight === 0)
      throw new LabError('no request was in flight when the daemon was killed');
    await this.startDaemon();
    this.downMs = performance.now() - killedAt;
    const { exitCode, stdout, stderr } = await fio.ended;
    if (exitCode !== 0) throw new LabError(`fio ended with ${exitCode}:\n${tail(stdout)}\n${tail(stderr)}`);
    this.interrupted = readFio(stdout, 'write');
  }

  /** Resolves when the device has completed this many writes from now on. */
  async #writesOfDevice(count: number): Promise<void> {
    const completed = `$(awk '{print $5}' ${this.#statistics}/stat)`;
    const script = `end=$((${completed} + ${Math.round(count)})); until [ ${completed} -ge $end ]; do sleep 0.1; done`;
    await mustRun(this.#machine, script, { timeoutMs: 120_000 });
  }

  /** Reads everything back from the device: nothing is left in a cache. */
  async verify(): Promise<void> {
    await this.unmount();
    await mustRun(this.#machine, 'sync; echo 3 >/proc/sys/vm/drop_caches');
    await this.mount();
    await runFio(this.#machine, {
      file: `${this.#target}/undisturbed`,
      sizeBytes: WARM_UP_BYTES,
      step: 'check',
    });
    const sizeBytes = this.#interruptedBytes;
    await runFio(this.#machine, { file: `${this.#target}/interrupted`, sizeBytes, step: 'check' });
  }

  async checkFileSystem(): Promise<void> {
    await this.#csi(this.#node('NodeUnpublishVolume', { target_path: this.#target }));
    await mustRun(this.#machine, `umount ${this.#staging} && e2fsck -fn ${this.device}`, {
      timeoutMs: 180_000,
    });
    const complaints = (await this.#machine.kernelLog())
      .split('\n')
      .filter((line) => KERNEL_COMPLAINTS.test(line));
    if (complaints.length > 0) throw new LabError(`the kernel complains:\n${complaints.join('\n')}`);
  }

  async delete(): Promise<void> {
    await this.#csi(
      this.#node('NodeUnstageVolume'),
      {
        service: 'Controller',
        method: 'ControllerUnpublishVolume',
        request: { volume_id: this.#volumeId, node_id: NODE },
      },
      { service: 'Controller', method: 'DeleteVolume', request: { volume_id: this.#volumeId } },
    );
    const left = await mustRun(this.#machine, `ls ${this.#lab.dir}/pool`);
    if (left.includes(this.#volumeId))
      throw new LabError(`the deleted volume's replica is still there: ${left}`);
    await this.#daemon?.stop();
  }

  async daemonLog(): Promise<string> {
    return (await this.#daemon?.log()) ?? '';
  }

  get #statistics(): string {
    return `/sys/block/${this.device.slice('/dev/'.length)}`;
  }

  #csi(...calls: CsiCall[]): Promise<Record<string, unknown>[]> {
    return csiCalls(this.#machine, `${this.#lab.dir}/csi.sock`, calls);
  }

  #node(method: string, fields: Record<string, unknown> = {}): CsiCall {
    const request = {
      volume_id: this.#volumeId,
      staging_target_path: this.#staging,
      ...(method.startsWith('NodeUn')
        ? {}
        : { volume_capability: CAPABILITY, publish_context: this.#publishContext }),
      ...fields,
    };
    return { service: 'Node', method, request };
  }
}

function tasks(demo: Demo): Listr {
  return new Listr(
    [
      { title: 'Start the daemon on the embedded store', task: () => demo.startDaemon() },
      {
        title: `CSI controller: create and publish a ${prettyBytes(VOLUME_BYTES, { binary: true })} volume`,
        task: () => demo.provision(),
      },
      { title: 'CSI node: stage (ext4) and publish', task: () => demo.mount() },
      { title: 'fio: random 4k writes, verified with crc32c', task: () => demo.writeUndisturbed() },
      {
        title: 'fio again: the daemon is killed with SIGKILL and started again under it',
        task: () => demo.writeInterrupted(),
      },
      { title: 'Unmount, mount with empty caches, verify from the device', task: () => demo.verify() },
      { title: 'e2fsck -fn, kernel log', task: () => demo.checkFileSystem() },
      { title: 'Unstage, unpublish, delete; stop the daemon', task: () => demo.delete() },
    ],
    // No fixed-width screen where nobody looks: one line per step.
    { fallbackRenderer: 'simple', rendererOptions: { collapseSubtasks: false } },
  );
}

function printFigures(demo: Demo, lab: DemoLab): void {
  const { undisturbed, interrupted } = demo;
  if (undisturbed === undefined || interrupted === undefined) return;
  const ms = (value: number) => `${value.toFixed(value < 100 ? 2 : 0)} ms`;
  const row = (name: string, { iops, requests, p50Ms, p99Ms, maxMs }: FioFigures) =>
    `  ${name.padEnd(20)}${Math.round(iops).toLocaleString('en').padStart(8)} IOPS   p50 ${ms(p50Ms)}   ` +
    `p99 ${ms(p99Ms)}   longest ${ms(maxMs)}   (${requests.toLocaleString('en')} writes)`;
  const where = lab.isGuest ? 'a lab guest (User-Mode Linux: one CPU, slow system calls)' : 'this host';
  console.log(
    `\nRan on ${where}; 4k random writes, queue depth 16, libaio, direct, on ext4 on ${demo.device}`,
  );
  console.log(row('undisturbed', undisturbed));
  console.log(row('daemon killed', interrupted));
  console.log(
    `\nThe daemon was killed with ${demo.requestsInFlight} requests in flight and answered again ` +
      `${(demo.downMs / 1000).toFixed(1)} s later.\nThe application saw a pause of ` +
      `${(interrupted.maxMs / 1000).toFixed(1)} s and no error; every block verified, the file system is clean.`,
  );
}

/** One that is told to end takes everything away first, at whatever step it is; told again, it goes on with that. */
function cleanUpOnSignals(opening: Promise<DemoLab>): { isInterrupted: boolean } {
  const state = { isInterrupted: false };
  const cleanUp = async (exitCode: number): Promise<void> => {
    if (state.isInterrupted) return;
    state.isInterrupted = true;
    console.error('\nInterrupted: taking everything away.');
    try {
      const lab = await opening;
      await lab[Symbol.asyncDispose]();
    } catch (error) {
      console.error(`That failed: ${errorText(error)}`);
    }
    process.exit(exitCode);
  };
  process.on('SIGINT', () => void cleanUp(130)).on('SIGTERM', () => void cleanUp(143));
  process.on('SIGHUP', () => void cleanUp(129));
  return state;
}

async function main(): Promise<void> {
  const started = performance.now();
  const opening = openDemoLab();
  const signals = cleanUpOnSignals(opening);
  await using lab = await opening;
  const demo = new Demo(lab);
  try {
    await tasks(demo).run();
    printFigures(demo, lab);
    console.log(`Done in ${Math.round((performance.now() - started) / 1000)} s; nothing is left behind.`);
  } catch (error) {
    if (signals.isInterrupted) return await new Promise(() => undefined); // the clean-up ends the process
    console.error(
      `\nThe demo failed: ${errorText(error)}\n\nThe daemon's log ends with:\n${await demo.daemonLog()}`,
    );
    process.exitCode = 1;
  }
}

await main();
