// The StorageClass parameters: one table. Each parameter has our own name and the names that users of
// StorageOS and Ondat have in their manifests; a value that asks for something which is not there yet is
// refused with a clear text, never ignored. Keys below csi.storage.k8s.io/ belong to the sidecars and pass.

import { FAILURE_MODE_NAMES, REPLICAS_NAMES } from '../control/volume-labels.ts';
import { didYouMean } from '../core/nearest.ts';
import type { FileSystemType } from '../host/filesystems.ts';
import { parseFileSystemType } from './capabilities.ts';
import { invalid } from './requests.ts';

export interface Parameters {
  /** undefined: not said. */
  readonly fileSystemType: FileSystemType | undefined;
  readonly pool: string | undefined;
  readonly replicaCount: number;
  readonly durability: 'writeback' | 'writethrough';
  readonly failureMode: 'hard' | 'soft' | 'alwayson' | number;
  /** What the provisioner tells about the claim, for people: its name and namespace, the volume's name. */
  readonly labels: Readonly<Record<string, string>>;
}

type Value = string | number | boolean;

export interface Parameter {
  /** The first is ours and the one that messages use. */
  readonly names: readonly [string, ...string[]];
  readonly values: string;
  /** In words; the reference in docs/csi.md has the same. */
  readonly text: string;
  /** The meaning of a value; throws text that completes "NAME: …". */
  readonly parse: (text: string, inCluster: boolean) => Value;
}

const NOT_YET = 'is not available in this version';
const NEEDS_CLUSTER =
  'replication is not available on one node with a store of its own: it needs --store etcd://…';

/** A switch of which only one position is there. */
function fixed(names: Parameter['names'], only: boolean, refusal: string, text: string): Parameter {
  return {
    names,
    values: `\`${only}\``,
    text,
    parse: (value) => {
      const wanted = parseBoolean(value);
      if (wanted !== only) throw invalid(refusal);
      return wanted;
    },
  };
}

/** A name that means something elsewhere or later; no value of it can be honoured. */
function refused(name: string, refusal: string): Parameter {
  return {
    names: [name],
    values: 'none',
    text: refusal,
    parse: () => {
      throw invalid(refusal);
    },
  };
}

export const PARAMETERS = {
  fileSystemType: {
    names: ['holdfast.dev/fs-type', 'fsType', 'fstype', 'csi.storage.k8s.io/fstype'],
    values: '`ext4` (default), `ext3`, `ext2`, `xfs`',
    text: 'The file system made when the volume is first mounted.',
    parse: parseFileSystemType,
  },
  pool: {
    names: ['holdfast.dev/pool', 'pool'],
    values: 'a name; default: the first pool of the node',
    text: 'The pool that holds the volume.',
    parse: (text) => {
      if (text === '') throw invalid('is empty: name a pool, or leave the parameter out');
      return text;
    },
  },
  replicas: {
    names: REPLICAS_NAMES,
    values: '`0` (default); in a cluster to `5`',
    text: 'Copies beside the primary. More than 0 need a store that nodes share (`--store etcd://…`).',
    parse: (text, inCluster) => {
      const count = parseCount(text, 5);
      if (count > 0 && !inCluster) throw invalid(`${NEEDS_CLUSTER}; set it to 0`);
      return count;
    },
  },
  durability: {
    names: ['holdfast.dev/durability'],
    values: '`writeback` (default), `writethrough`',
    text: 'What an acknowledged write has survived: the death of processes, or the loss of power.',
    parse: (text) => parseWord(text, ['writeback', 'writethrough'] as const),
  },
  failureMode: {
    names: FAILURE_MODE_NAMES,
    values: '`soft` (default), `hard`, `alwayson`, `0`; in a cluster to `5`',
    text: 'How many replicas may be missing before writes wait. A number is the least count of replicas.',
    parse: (text, inCluster) => {
      if (!/^[0-9]+$/.test(text)) return parseWord(text, ['hard', 'soft', 'alwayson'] as const);
      const count = parseCount(text, 5);
      if (count > 0 && !inCluster)
        throw invalid(`at least ${count} replicas cannot be had: ${NEEDS_CLUSTER}`);
      return count;
    },
  },
  encryption: fixed(
    ['holdfast.dev/encryption', 'storageos.com/encryption'],
    false,
    `encryption ${NOT_YET}: set it to false, or encrypt above the volume`,
    'Encryption at the node that uses the volume. `true` comes later.',
  ),
  noCompress: fixed(
    ['holdfast.dev/nocompress', 'storageos.com/nocompress'],
    true,
    `compression ${NOT_YET}: set it to true`,
    'Data is not compressed.',
  ),
  topologyAware: fixed(
    ['holdfast.dev/topology-aware', 'storageos.com/topology-aware'],
    false,
    `naming failure domains ${NOT_YET}: copies are spread over zones and nodes; set it to false`,
    'Spread copies over failure domains of a class. `true` comes later; copies are spread over zones and nodes anyway.',
  ),
  fixedTopology: fixed(
    ['holdfast.dev/fixed-topology', 'storageos.com/fixed-topology'],
    false,
    `keeping every copy within allowedTopologies ${NOT_YET}: set it to false`,
    'Keep all copies within allowedTopologies. `true` comes later.',
  ),
  dataLocality: fixed(
    ['holdfast.dev/automatic-data-locality', 'storageos.com/automatic-data-locality'],
    false,
    `moving the primary to the pod ${NOT_YET}: set it to false, or use holdfast volume move`,
    'Move the primary to where the pod runs. `true` comes later.',
  ),
  throttle: fixed(
    ['storageos.com/throttle'],
    false,
    `throttling ${NOT_YET}`,
    'Give this volume less of the node. `true` comes later.',
  ),
  topologyKey: refused(
    'storageos.com/topology-key',
    `spreading by a topology key ${NOT_YET}: copies are spread over zones and nodes`,
  ),
  failureTolerance: refused(
    'storageos.com/failure.tolerance',
    'is not used here: say holdfast.dev/failure-mode',
  ),
  noCache: refused(
    'storageos.com/nocache',
    'is a property of the pool: start the daemon with --pool NAME=DIR,io=direct',
  ),
  hintMaster: refused(
    'storageos.com/hint.master',
    'is not used here: let the pod choose the node (WaitForFirstConsumer)',
  ),
  nfsSquash: refused('storageos.com/nfs-squash', `shared volumes over NFS: ${NOT_YET}`),
  fenced: refused('storageos.com/fenced', 'is a label of pods, not a parameter of volumes'),
  computeOnly: refused('storageos.com/computeonly', 'is a label of nodes, not a parameter of volumes'),
} as const satisfies Readonly<Record<string, Parameter>>;

/** The sidecars' own keys: secrets, claim metadata. */
const RESERVED_PREFIX = 'csi.storage.k8s.io/';
const LABEL_KEYS = ['pvc/name', 'pvc/namespace', 'pv/name'].map((key) => `${RESERVED_PREFIX}${key}`);

const NAMES: ReadonlyMap<string, Parameter> = new Map(
  Object.values<Parameter>(PARAMETERS).flatMap((parameter) =>
    parameter.names.map((name) => [name, parameter] as const),
  ),
);

/** INVALID for an unknown name, a value that cannot be honoured, or two names of one parameter that disagree. */
export function parseParameters(given: Readonly<Record<string, string>>, inCluster = false): Parameters {
  const found = new Map<Parameter, { readonly name: string; readonly value: Value }>();
  for (const [name, text] of Object.entries(given)) {
    const parameter = NAMES.get(name);
    if (parameter === undefined) {
      if (name.startsWith(RESERVED_PREFIX)) continue;
      throw invalid(`there is no parameter '${name}'.${didYouMean(name, NAMES.keys())}`);
    }
    const value = parseValue(parameter, name, text, inCluster);
    const earlier = found.get(parameter);
    if (earlier !== undefined && earlier.value !== value) {
      throw invalid(
        `${earlier.name} says ${earlier.value} and ${name} says ${value}: they mean the same, leave one out`,
      );
    }
    found.set(parameter, { name, value });
  }
  const value = <P extends Parameter>(parameter: P): ReturnType<P['parse']> | undefined =>
    found.get(parameter)?.value as ReturnType<P['parse']> | undefined;
  return {
    fileSystemType: value(PARAMETERS.fileSystemType),
    pool: value(PARAMETERS.pool),
    replicaCount: value(PARAMETERS.replicas) ?? 0,
    durability: value(PARAMETERS.durability) ?? 'writeback',
    failureMode: value(PARAMETERS.failureMode) ?? 'soft',
    labels: Object.fromEntries(Object.entries(given).filter(([name]) => LABEL_KEYS.includes(name))),
  };
}

function parseValue(parameter: Parameter, name: string, text: string, inCluster: boolean): Value {
  try {
    return parameter.parse(text, inCluster);
  } catch (error) {
    throw invalid(`${name}=${text}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

function parseBoolean(text: string): boolean {
  const word = text.toLowerCase();
  if (word === 'true' || word === 'false') return word === 'true';
  throw invalid('must be true or false');
}

function parseCount(text: string, max: number): number {
  if (/^[0-9]+$/.test(text) && Number(text) <= max) return Number(text);
  throw invalid(`must be a whole number from 0 to ${max}`);
}

function parseWord<Word extends string>(text: string, words: readonly Word[]): Word {
  const word = words.find((known) => known === text);
  if (word === undefined) throw invalid(`must be one of ${words.join(', ')}.${didYouMean(text, words)}`);
  return word;
}
