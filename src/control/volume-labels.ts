// Labels that say what a volume is to be, as users of StorageOS and Ondat have them in their manifests and commands. They
// are taken for what they mean and are not kept as labels: a copy of it there would be wrong after the next change.

import { HoldfastError } from '../core/errors.ts';
import { MAX_REPLICAS } from '../replication/replica-set.ts';
import { failureModeSchema, type VolumeRecord } from './records.ts';

export type VolumeFailureMode = VolumeRecord['failureMode'];

/** The first is ours. */
export const REPLICAS_NAMES = ['holdfast.dev/replicas', 'storageos.com/replicas'] as const;
export const FAILURE_MODE_NAMES = [
  'holdfast.dev/failure-mode',
  'storageos.com/failure-mode',
  'storageos.com/failure.mode',
  'failure.mode',
] as const;

/** INVALID. '3' is the number. */
export function parseFailureMode(text: string): VolumeFailureMode {
  const found = failureModeSchema.safeParse(/^\d+$/.test(text) ? Number(text) : text);
  if (found.success) return found.data;
  throw new HoldfastError(
    'INVALID',
    `The failure mode is hard, soft, alwayson or a number from 0 to ${MAX_REPLICAS}, not "${text}".`,
  );
}

/** undefined: no label says so. */
export interface LabelledOptions {
  readonly replicaCount: number | undefined;
  readonly failureMode: VolumeFailureMode | undefined;
  /** Those that are only labels. */
  readonly labels: Readonly<Record<string, string>>;
}

/** INVALID for a value that means nothing, and for two labels that mean the same and disagree. */
export function optionsOfLabels(labels: Readonly<Record<string, string>>): LabelledOptions {
  const isOption = (name: string): boolean =>
    [...REPLICAS_NAMES, ...FAILURE_MODE_NAMES].some((n) => n === name);
  return {
    replicaCount: agreed(labels, REPLICAS_NAMES, parseReplicas),
    failureMode: agreed(labels, FAILURE_MODE_NAMES, parseFailureMode),
    labels: Object.fromEntries(Object.entries(labels).filter(([name]) => !isOption(name))),
  };
}

function parseReplicas(text: string): number {
  const count = Number(text);
  if (/^\d+$/.test(text) && count <= MAX_REPLICAS) return count;
  throw new HoldfastError('INVALID', `The replicas are a number from 0 to ${MAX_REPLICAS}, not "${text}".`);
}

function agreed<T>(
  labels: Readonly<Record<string, string>>,
  names: readonly string[],
  parse: (text: string) => T,
): T | undefined {
  const said = names.flatMap((name) => {
    const text = labels[name];
    return text === undefined ? [] : [{ name, value: parse(text) }];
  });
  const [first] = said;
  const other = said.find(({ value }) => value !== first?.value);
  if (first === undefined || other === undefined) return first?.value;
  throw new HoldfastError(
    'INVALID',
    `The label ${first.name} says ${String(first.value)} and ${other.name} says ${String(other.value)}: they mean the same, leave one out.`,
  );
}

/** What an option says, or else a label; INVALID when both do and disagree. `unsaid`: the option was left out. */
export function optionOrLabel<T>(what: string, option: T, label: T | undefined, isUnsaid: boolean): T {
  if (label === undefined || label === option) return option;
  if (isUnsaid) return label;
  throw new HoldfastError(
    'INVALID',
    `The option ${what} says ${String(option)}, and a label of the same meaning ${String(label)}: leave one out.`,
  );
}
