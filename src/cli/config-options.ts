// The table of options: type, default, unit, range, text. Flags, environment variables, the file's keys and
// docs/reference/config.md all come from here.

import { availableParallelism, hostname } from 'node:os';
import { z } from 'zod';
import { DRIVER_NAME_RULE, isDriverName } from '../core/driver-name.ts';
import { LOG_LEVELS } from '../observe/log-level.ts';
import {
  directory,
  duration,
  filePath,
  hostPort,
  labelMap,
  listenAddress,
  number,
  poolList,
  size,
  socketPath,
  storeOption,
  storePrefix,
  typed,
} from './config-schemas.ts';

export interface Option<S extends z.ZodType = z.ZodType> {
  /** The placeholder in the usage text, and the unit where there is one. */
  readonly argument: string;
  readonly schema: S;
  /** As a person would type it; a function where it depends on the machine. undefined: not set. */
  readonly default: string | readonly string[] | (() => string) | undefined;
  /** What the reference page says of a default that depends on the machine. */
  readonly defaultText?: string;
  readonly range?: string;
  readonly text: string;
  readonly isList?: true;
}

function option<S extends z.ZodType>(o: Option<S>): Option<S> {
  return o;
}

export const DEFAULT_DATA_DIRECTORY = '/var/lib/holdfast';

/** Keys are the properties of Config; the flag, the environment and the file spell them `data-dir` (HOLDFAST_DATA_DIR). */
export const OPTIONS = {
  dataDir: option({
    argument: 'DIR',
    schema: directory,
    default: DEFAULT_DATA_DIRECTORY,
    text: 'Where this daemon keeps its store, its lock and, unless told otherwise, its API socket and its pool. One daemon a directory.',
  }),
  runDir: option({
    argument: 'DIR',
    schema: directory,
    default: undefined,
    defaultText: '`/run/holdfast`, or `/dev/shm/holdfast-<uid>` where that is no tmpfs or not ours',
    text: 'A directory in memory (tmpfs) for what must outlive a killed daemon but not a boot: 68 KiB an open volume. Daemons may share one; give a daemon the same one at every start.',
  }),
  nodeName: option({
    argument: 'NAME',
    schema: typed((text) => {
      if (!/^[A-Za-z0-9]([-A-Za-z0-9._]{0,126}[A-Za-z0-9])?$/.test(text)) {
        throw new Error("must be 1 to 128 letters, digits, '-', '.' or '_'");
      }
      return text;
    }),
    default: hostname,
    defaultText: "the machine's host name",
    text: "This node's name, for good: replicas and attachments are recorded under it. In Kubernetes the node's name.",
  }),
  zone: option({
    argument: 'NAME',
    schema: typed((text) => {
      if (!/^[\x21-\x7e]{1,128}$/.test(text))
        throw new Error('must be 1 to 128 printable characters without spaces');
      return text;
    }),
    default: undefined,
    text: 'What fails together with this node: a room, a rack, a zone of the cloud. Copies of a volume go to different zones first.',
  }),
  nodeLabel: option({
    argument: 'KEY=VALUE',
    schema: labelMap,
    default: [],
    defaultText: 'none',
    isList: true,
    text: 'A label of this node, by which volumes may choose where their copies go; repeat it for several (in the environment: separated by `;`).',
  }),
  store: option({
    argument: 'STORE',
    schema: storeOption,
    default: 'level',
    range: '`level`, `etcd://HOST:PORT[,HOST:PORT…]`',
    text: "The cluster's configuration memory. `level`: embedded in the daemon, for one machine. `etcd://…`: the servers of an etcd cluster (3.4 or newer).",
  }),
  storePrefix: option({
    argument: 'PREFIX',
    schema: storePrefix,
    default: '/holdfast',
    text: 'Where in etcd the store is: everything stands below it. The same for all daemons of a cluster.',
  }),
  storeCa: option({
    argument: 'FILE',
    schema: filePath,
    default: undefined,
    text: "The authority that signed etcd's certificate (PEM). With it etcd is spoken to over TLS.",
  }),
  storeCert: option({
    argument: 'FILE',
    schema: filePath,
    default: undefined,
    text: 'Our certificate (PEM), where etcd asks clients for one.',
  }),
  storeKey: option({
    argument: 'FILE',
    schema: filePath,
    default: undefined,
    text: 'The private key of `--store-cert` (PEM, without a password).',
  }),
  storeUser: option({
    argument: 'NAME',
    schema: z.string().min(1),
    default: undefined,
    text: 'The user for etcd: one who may read and write below the prefix.',
  }),
  storePasswordFile: option({
    argument: 'FILE',
    schema: filePath,
    default: undefined,
    text: 'A file with the password of `--store-user`; a newline at its end is ignored.',
  }),
  acceptStore: option({
    argument: 'WHICH',
    schema: z.enum(['known', 'any']),
    default: 'known',
    range: '`known`, `any`',
    text: 'Which store this node serves with. `known`: the one it served with before, and none older. `any`: also a new, empty one, another or an older one, after a loss, for one start: copies that it does not know are kept and reported; and this node takes its name over from a data directory that is lost.',
  }),
  api: option({
    argument: 'PATH',
    schema: socketPath,
    default: undefined,
    defaultText: '`api.sock` in the data directory',
    text: 'Unix socket of the control API, mode 0600. It answers once the pools are open. With the flag `--data-dir` the variable is not read: it tells commands which daemon to ask.',
  }),
  listen: option({
    argument: '[HOST]:PORT',
    schema: listenAddress,
    default: undefined,
    text: 'Listen here for the other daemons of the cluster, who must hold the same `--cluster-key`. Without HOST on 127.0.0.1; `0.0.0.0` and `[::]` are all addresses. Port 0 takes a free one and logs it.',
  }),
  advertise: option({
    argument: 'HOST:PORT',
    schema: hostPort,
    default: undefined,
    defaultText: 'what `--listen` names',
    text: 'Where other daemons reach this one, where that is not what it listens on: behind all addresses, a container or a forwarded port.',
  }),
  clusterKey: option({
    argument: 'FILE',
    schema: filePath,
    default: undefined,
    text: 'The key that all daemons of the cluster share: 32 bytes or more, raw, in hex or in base64. Mode 0600, or less. `holdfast cluster keygen FILE` makes one.',
  }),
  metrics: option({
    argument: 'HOST:PORT',
    schema: hostPort,
    default: undefined,
    text: 'Serve `/metrics`, `/healthz` and `/readyz` over HTTP here. Port 0 takes a free one and logs it.',
  }),
  pool: option({
    argument: 'NAME=DIR[,io=direct|buffered]',
    schema: poolList,
    default: undefined,
    defaultText: '`default`, in `pools/default` of the data directory',
    isList: true,
    text: 'A directory that holds replicas; repeat it for several (in the environment: separated by `;`). The first is the default pool. Without `io`: direct where the file system takes O_DIRECT.',
  }),
  csi: option({
    argument: 'PATH',
    schema: socketPath,
    default: undefined,
    text: 'Serve the Container Storage Interface on this Unix socket.',
  }),
  csiDriverName: option({
    argument: 'NAME',
    schema: typed((text) => {
      if (!isDriverName(text)) throw new Error(DRIVER_NAME_RULE);
      return text;
    }),
    default: 'csi.holdfast.dev',
    text: 'The name that CSIDriver and StorageClass objects use for this driver.',
  }),
  maxVolumes: option({
    argument: 'COUNT',
    schema: number(1, 1024, 'integer'),
    default: '128',
    range: '1 to 1024',
    text: 'How many volumes may be attached to this node at once; the scheduler is told.',
  }),
  threads: option({
    argument: 'COUNT',
    schema: number(1, 64, 'integer'),
    default: () => String(Math.min(64, availableParallelism())),
    defaultText: 'one per core',
    range: '1 to 64',
    text: 'Data-plane threads.',
  }),
  busyPoll: option({
    argument: 'TIME',
    schema: duration(0, 1),
    // Who looks on the only processor keeps it from what it looks for.
    default: () => (availableParallelism() > 1 ? '50us' : '0ms'),
    defaultText: '50us; 0ms on one core',
    range: '0ms to 1ms',
    text: 'How long a data-plane thread with requests in flight looks for completions before it sleeps: latency against CPU.',
  }),
  stuckAfter: option({
    argument: 'TIME',
    schema: duration(0, 3_600_000),
    default: '30s',
    range: '0ms to 1h; 0ms: never',
    text: 'A data-plane thread that is longer than this in one turn of its loop is stuck: the daemon ends itself, devices stay, and the next daemon takes over. One that waits in the kernel for a hung disk is logged instead: an end would wait too.',
  }),
  replaceAfter: option({
    argument: 'TIME',
    schema: duration(1000, 30 * 86_400_000),
    default: '10m',
    range: '1s to 30d',
    text: 'A node that has not been alive for this long is taken for lost: its copies are replaced by others elsewhere. Longer than a reboot; `holdfast cluster maintenance on` holds it up. Give all daemons of a cluster the same.',
  }),
  resyncLimit: option({
    argument: 'COUNT',
    schema: number(1, 64, 'integer'),
    default: '4',
    range: '1 to 64',
    text: 'How many copies on other nodes this one brings up to date at a time, over all its volumes; of copies that need everything half as many. The others wait for their turn. A copy that requests wait for never does.',
  }),
  overcommit: option({
    argument: 'RATIO',
    schema: number(0.1, 1000, 'fraction'),
    default: '10',
    range: '0.1 to 1000',
    text: "The sizes of a pool's volumes may add up to the pool's size times this: volumes take space as they are written.",
  }),
  poolReserve: option({
    argument: 'SIZE',
    schema: size,
    default: undefined,
    defaultText: "1 GiB, or 5 % of the pool's file system where that is less",
    text: "Room in a pool's file system that data never uses: it is kept for metadata and for other users of the file system.",
  }),
  stopTimeout: option({
    argument: 'TIME',
    schema: duration(1000, 600_000),
    default: '30s',
    range: '1s to 10m',
    text: 'How long a stop may take to drain and flush before the process ends anyway.',
  }),
  lockMemory: option({
    argument: 'WHEN',
    schema: z.enum(['auto', 'always', 'never']),
    default: 'auto',
    range: '`auto`, `always`, `never`',
    text: 'Keep the daemon out of swap: the page cache cannot be written back by a process that waits for memory. `auto` warns where it is refused, `always` then exits.',
  }),
  logLevel: option({
    argument: 'LEVEL',
    schema: z.enum(LOG_LEVELS),
    default: 'info',
    range: LOG_LEVELS.map((level) => `\`${level}\``).join(', '),
    text: 'The least serious events that are logged.',
  }),
} as const;

export type OptionKey = keyof typeof OPTIONS;
type StoreFile = 'storeCa' | 'storeCert' | 'storeKey' | 'storePasswordFile';
type Optional =
  | StoreFile
  | 'storeUser'
  | 'runDir'
  | 'zone'
  | 'api'
  | 'listen'
  | 'advertise'
  | 'clusterKey'
  | 'metrics'
  | 'pool'
  | 'csi'
  | 'poolReserve';
type Values = { readonly [K in OptionKey]: z.output<(typeof OPTIONS)[K]['schema']> };
/** `api` and `pool` are filled in from the data directory. */
export type Config = Values & { readonly [K in Exclude<Optional, 'api' | 'pool'>]: Values[K] | undefined };

export const OPTION_KEYS = Object.keys(OPTIONS) as OptionKey[];

/** `dataDir` → `data-dir`: the flag without dashes and the key in the file. */
export function optionName(key: OptionKey): string {
  return key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

export function environmentName(key: OptionKey): string {
  return `HOLDFAST_${optionName(key).replaceAll('-', '_').toUpperCase()}`;
}
