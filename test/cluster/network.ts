// A network of its own for a cluster: a namespace for each host, and one that routes between them, in which the ways
// are cut. Needs root. Nothing of it is seen outside: hosts reach each other and nobody else.
//
// It is gone with dispose(); what a killed test run left is removed by the next one.

import { execa } from 'execa';

const PREFIX = 'holdfast-test';

/**
 * silent: packets vanish, as behind a dead switch. refused: new connections fail at once, standing ones are reset, as
 * when a machine answers and its daemon is gone.
 */
export type Cut = 'silent' | 'refused';

interface Host {
  readonly namespace: string;
  readonly address: string;
}

export class ClusterNetwork implements AsyncDisposable {
  readonly #router: string;
  readonly #hosts: ReadonlyMap<string, Host>;
  /** The rules that stand, as `ip rule` takes them. */
  readonly #rules = new Set<string>();

  static async create(names: readonly string[]): Promise<ClusterNetwork> {
    await removeLeftovers();
    const network = new ClusterNetwork(names);
    try {
      await network.#build();
    } catch (error) {
      await network[Symbol.asyncDispose]();
      throw error;
    }
    return network;
  }

  private constructor(names: readonly string[]) {
    const own = `${PREFIX}-${process.pid}-${Math.random().toString(36).slice(2, 8)}`;
    this.#router = `${own}-router`;
    this.#hosts = new Map(
      names.map((name, index) => [name, { namespace: `${own}-${name}`, address: `10.99.${index}.2` }]),
    );
  }

  addressOf(name: string): string {
    return this.#host(name).address;
  }

  /** What goes before a command that is to run on that host. It ends with this process, however this one ends. */
  launcher(name: string): readonly string[] {
    return ['nsenter', entering(this.#host(name).namespace), 'setpriv', '--pdeathsig', 'KILL'];
  }

  /** Nothing passes from one to the other, nor back. */
  async cut(one: string, other: string, how: Cut = 'silent'): Promise<void> {
    // While the way is open: the resets are to arrive.
    if (how === 'refused') await this.reset(one, other);
    await this.cutOneWay(one, other, how);
    await this.cutOneWay(other, one, how);
  }

  async cutOneWay(from: string, to: string, how: Cut = 'silent'): Promise<void> {
    const action = how === 'silent' ? 'blackhole' : 'unreachable';
    const rule = `from ${this.addressOf(from)} to ${this.addressOf(to)} ${action} pref 10`;
    if (this.#rules.has(rule)) return;
    await ip(['-n', this.#router, 'rule', 'add', ...rule.split(' ')]);
    this.#rules.add(rule);
  }

  /** From all others. */
  async isolate(name: string, how: Cut = 'silent'): Promise<void> {
    for (const other of this.#hosts.keys()) if (other !== name) await this.cut(name, other, how);
  }

  /** It hears nothing any more, and is heard. */
  async deafen(name: string): Promise<void> {
    for (const other of this.#hosts.keys()) if (other !== name) await this.cutOneWay(other, name);
  }

  /** It is not heard any more, and hears. */
  async mute(name: string): Promise<void> {
    for (const other of this.#hosts.keys()) if (other !== name) await this.cutOneWay(name, other);
  }

  /** Resets the connections between two; new ones are welcome. */
  async reset(one: string, other: string): Promise<void> {
    await runInside(this.#host(one).namespace, ['ss', '--kill', '--tcp', 'dst', this.addressOf(other)]);
  }

  /** All ways are open again. */
  async heal(): Promise<void> {
    for (const rule of this.#rules) {
      await ip(['-n', this.#router, 'rule', 'del', ...rule.split(' ')]);
      this.#rules.delete(rule);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const namespace of [this.#router, ...Array.from(this.#hosts.values(), (host) => host.namespace)]) {
      await execa('ip', ['netns', 'del', namespace], { reject: false });
    }
  }

  async #build(): Promise<void> {
    const hosts = [...this.#hosts.values()];
    await ip(['netns', 'add', this.#router]);
    for (const { namespace } of hosts) await ip(['netns', 'add', namespace]);
    for (const [index, { namespace, address }] of hosts.entries()) {
      const [wire, gateway] = [`host${index}`, address.replace(/2$/, '1')];
      await ip([
        'link',
        'add',
        wire,
        'netns',
        this.#router,
        'type',
        'veth',
        'peer',
        'name',
        'eth0',
        'netns',
        namespace,
      ]);
      await ipBatch(this.#router, [`addr add ${gateway}/30 dev ${wire}`, `link set ${wire} up`]);
      await ipBatch(namespace, [
        'link set lo up',
        `addr add ${address}/30 dev eth0`,
        'link set eth0 up',
        `route add default via ${gateway}`,
      ]);
    }
    // Each refusal is to be told, not one a second.
    const settings = ['ip_forward=1', 'icmp_ratelimit=0'].map((setting) => `net.ipv4.${setting}`);
    await runInside(this.#router, ['sysctl', '-qw', ...settings]);
  }

  #host(name: string): Host {
    const host = this.#hosts.get(name);
    if (host === undefined) throw new Error(`no host "${name}" in this network`);
    return host;
  }
}

/** `ip netns exec` would also give the command a mount namespace of its own, which is not what a host's daemon has. */
function entering(namespace: string): string {
  return `--net=/run/netns/${namespace}`;
}

async function runInside(namespace: string, command: readonly string[]): Promise<void> {
  await execa('nsenter', [entering(namespace), ...command]);
}

async function ip(args: readonly string[]): Promise<string> {
  return (await execa('ip', args)).stdout;
}

async function ipBatch(namespace: string, lines: readonly string[]): Promise<void> {
  await execa('ip', ['-n', namespace, '-batch', '-'], { input: lines.join('\n') });
}

async function removeLeftovers(): Promise<void> {
  const listed = await ip(['netns', 'list']);
  for (const [, namespace = '', owner] of listed.matchAll(new RegExp(`^(${PREFIX}-(\\d+)-\\S+)`, 'gm'))) {
    if (!isAlive(Number(owner))) await execa('ip', ['netns', 'del', namespace], { reject: false });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
