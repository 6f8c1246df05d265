import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { PARAMETERS, type Parameter, parseParameters } from '../../src/csi/parameters.ts';

const parameters = Object.values<Parameter>(PARAMETERS);

describe('StorageClass parameters', () => {
  test('have defaults', () => {
    expect(parseParameters({})).toEqual({
      fileSystemType: undefined,
      pool: undefined,
      replicaCount: 0,
      durability: 'writeback',
      failureMode: 'soft',
      labels: {},
    });
  });

  test.each([
    ['fsType', 'xfs', { fileSystemType: 'xfs' }],
    ['fstype', 'ext3', { fileSystemType: 'ext3' }],
    ['csi.storage.k8s.io/fstype', 'ext2', { fileSystemType: 'ext2' }],
    ['holdfast.dev/fs-type', 'ext4', { fileSystemType: 'ext4' }],
    ['pool', 'fast', { pool: 'fast' }],
    ['holdfast.dev/pool', 'fast', { pool: 'fast' }],
    ['storageos.com/replicas', '0', { replicaCount: 0 }],
    ['holdfast.dev/replicas', '0', { replicaCount: 0 }],
    ['holdfast.dev/durability', 'writethrough', { durability: 'writethrough' }],
    ['storageos.com/failure-mode', 'hard', { failureMode: 'hard' }],
    ['storageos.com/failure.mode', 'alwayson', { failureMode: 'alwayson' }],
    ['failure.mode', 'soft', { failureMode: 'soft' }],
    ['holdfast.dev/failure-mode', '0', { failureMode: 0 }],
    ['storageos.com/encryption', 'false', {}],
    ['holdfast.dev/encryption', 'False', {}],
    ['storageos.com/nocompress', 'true', {}],
    ['storageos.com/topology-aware', 'false', {}],
    ['storageos.com/throttle', 'false', {}],
  ])('%s=%s is understood', (name, value, meaning) => {
    expect(parseParameters({ [name]: value })).toMatchObject(meaning);
  });

  test.each([
    ['storageos.com/replicas', '2', 'replication is not available'],
    ['holdfast.dev/replicas', '1', 'replication is not available'],
    ['storageos.com/replicas', '6', 'from 0 to 5'],
    ['storageos.com/replicas', '-1', 'from 0 to 5'],
    ['storageos.com/replicas', '', 'from 0 to 5'],
    ['storageos.com/encryption', 'true', 'encryption is not available'],
    ['holdfast.dev/encryption', 'true', 'encryption is not available'],
    ['storageos.com/encryption', 'yes', 'true or false'],
    ['storageos.com/nocompress', 'false', 'compression is not available'],
    ['storageos.com/topology-aware', 'true', 'spread over zones and nodes'],
    ['storageos.com/topology-key', 'zone', 'spread over zones and nodes'],
    ['storageos.com/automatic-data-locality', 'true', 'holdfast volume move'],
    ['storageos.com/failure-mode', '2', 'at least 2 replicas'],
    ['storageos.com/failure-mode', 'hrad', 'Did you mean "hard"?'],
    ['storageos.com/nfs-squash', 'all', 'shared volumes'],
    ['storageos.com/fenced', 'true', 'label of pods'],
    ['holdfast.dev/durability', 'write', 'must be one of writeback, writethrough'],
    ['fsType', 'btrfs', 'ext4, ext3, ext2, xfs'],
    ['pool', '', 'empty'],
  ])('%s=%s is refused with a text that says why', (name, value, text) => {
    expect(() => parseParameters({ [name]: value })).toThrow(
      expect.objectContaining({ code: 'INVALID', message: expect.stringContaining(text) }),
    );
  });

  test('copies, and how many of them must be there, are for clusters', () => {
    const asked = { 'storageos.com/replicas': '2', 'storageos.com/failure-mode': '1' };
    expect(parseParameters(asked, true)).toMatchObject({ replicaCount: 2, failureMode: 1 });
    expect(() => parseParameters({ 'storageos.com/replicas': '6' }, true)).toThrow('from 0 to 5');
  });

  test('no value of any parameter that comes later is silently ignored', () => {
    for (const { names, values } of parameters) {
      if (values !== 'none') continue;
      for (const value of ['true', 'false', '0', 'x', '']) {
        expect(() => parseParameters({ [names[0]]: value }), `${names[0]}=${value}`).toThrow();
      }
    }
  });

  test('an unknown name is refused with the nearest known one', () => {
    expect(() => parseParameters({ 'storageos.com/replica': '0' })).toThrow(
      'Did you mean "storageos.com/replicas"?',
    );
    expect(() => parseParameters({ fsTyp: 'ext4' })).toThrow('Did you mean "fsType"?');
  });

  test('names of the sidecars pass, and what they tell of the claim becomes labels', () => {
    const claim = { 'csi.storage.k8s.io/pvc/name': 'data', 'csi.storage.k8s.io/pvc/namespace': 'db' };
    const secret = { 'csi.storage.k8s.io/provisioner-secret-name': 's' };
    expect(parseParameters({ ...claim, ...secret }).labels).toEqual(claim);
  });

  test('two names of one parameter may agree and must not disagree', () => {
    const agreed = { fsType: 'xfs', 'holdfast.dev/fs-type': 'xfs', 'csi.storage.k8s.io/fstype': 'xfs' };
    expect(parseParameters(agreed).fileSystemType).toBe('xfs');
    expect(() => parseParameters({ ...agreed, fsType: 'ext4' })).toThrow(
      expect.objectContaining({ code: 'INVALID', message: expect.stringContaining('they mean the same') }),
    );
  });

  test('no name belongs to two parameters', () => {
    const names = parameters.flatMap((parameter) => parameter.names);
    expect(new Set(names).size).toBe(names.length);
  });

  test('docs/csi.md lists every name with its values', () => {
    const page = readFileSync(new URL('../../docs/csi.md', import.meta.url), 'utf8');
    for (const { names, values, text } of parameters) {
      const [first, ...others] = names.map((name) => `\`${name}\``);
      expect(page).toContain(`| ${first} | ${others.join(', ') || '–'} | ${values} | ${text} |`);
    }
  });
});
