// etcd on this machine's side of a wire between guests: it outlives all of them, and takes no guest's processor.

import { type ChildProcess, spawn } from 'node:child_process';
import { execa } from 'execa';
import { until } from '../daemon/daemon.fixture.ts';
import { type Machine, mustRun } from './machine.ts';
import type { LabNetwork } from './network.ts';

const START_MS = 20_000;

export class HostStore implements Disposable {
  /** HOST:PORT. */
  readonly address: string;
  readonly #process: ChildProcess;

  /** Of a network with `hasHost`. Resolves when it answers. */
  static async start(network: LabNetwork, directory: string): Promise<HostStore> {
    const store = new HostStore(network, directory);
    try {
      const [program = '', ...launcher] = network.hostLauncher;
      const command = [...launcher, 'etcdctl', '--endpoints', store.address, 'endpoint', 'health'];
      const options = { env: { ETCDCTL_API: '3' }, reject: false, timeout: 5000 };
      await until(
        'etcd answers',
        async () => (await execa(program, command, options)).exitCode === 0,
        START_MS,
      );
    } catch (error) {
      store[Symbol.dispose]();
      throw error;
    }
    return store;
  }

  private constructor(network: LabNetwork, directory: string) {
    this.address = `${network.hostAddress}:2379`;
    const url = `http://${this.address}`;
    const [program = '', ...launcher] = network.hostLauncher;
    const words = ['--data-dir', directory, '--listen-client-urls', url, '--advertise-client-urls', url];
    // Nothing here survives this machine, so nothing is synced.
    const quiet = ['--log-level', 'error', '--logger', 'zap', '--unsafe-no-fsync'];
    this.#process = spawn(program, [...launcher, 'etcd', ...words, ...quiet], { stdio: 'ignore' });
  }

  /**
   * When guests come and go at once the switch may forget one of them for good (seen: it held no port any more): taking
   * the interface up again greets it anew. And a daemon that does not find its store ends.
   */
  async reachedFrom(machine: Machine): Promise<void> {
    const [host, port] = this.address.split(':');
    const reach = `timeout 3 bash -c 'exec 3<>/dev/tcp/${host}/${port}' 2>/run/no-store`;
    const greet = 'ip link set eth0 down; ip link set eth0 up; sleep 0.3';
    await mustRun(machine, `until ${reach}; do ${greet}; done`, { timeoutMs: START_MS * 4 });
  }

  [Symbol.dispose](): void {
    this.#process.kill('SIGKILL');
  }
}
