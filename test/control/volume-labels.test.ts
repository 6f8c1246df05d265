import { describe, expect, test } from 'vitest';
import { optionOrLabel, optionsOfLabels, parseFailureMode } from '../../src/control/volume-labels.ts';

const invalid = (text: string) =>
  expect.objectContaining({ code: 'INVALID', message: expect.stringContaining(text) });

describe('labels that say what a volume is to be', () => {
  test.each([
    ['holdfast.dev/failure-mode', 'hard', 'hard'],
    ['storageos.com/failure-mode', 'soft', 'soft'],
    ['storageos.com/failure-mode', '2', 2],
    ['storageos.com/failure.mode', 'alwayson', 'alwayson'],
    ['failure.mode', '0', 0],
  ])('%s=%s is the failure mode, and no label', (name, value, failureMode) => {
    expect(optionsOfLabels({ [name]: value, app: 'db' })).toEqual({
      replicaCount: undefined,
      failureMode,
      labels: { app: 'db' },
    });
  });

  test.each([
    ['storageos.com/failure-mode', 'hrad', 'not "hrad"'],
    ['failure.mode', '6', 'from 0 to 5'],
    ['failure.mode', '', 'not ""'],
    ['storageos.com/replicas', '6', 'from 0 to 5'],
    ['storageos.com/replicas', '-1', 'from 0 to 5'],
    ['storageos.com/replicas', '1.5', 'from 0 to 5'],
    ['holdfast.dev/replicas', '', 'not ""'],
  ])('%s=%s is refused', (name, value, text) => {
    expect(() => optionsOfLabels({ [name]: value })).toThrow(invalid(text));
  });

  test('two of one meaning may agree and must not disagree', () => {
    const both = { 'storageos.com/failure-mode': '2', 'failure.mode': '02', 'storageos.com/replicas': '3' };
    expect(optionsOfLabels(both)).toEqual({ replicaCount: 3, failureMode: 2, labels: {} });
    expect(() => optionsOfLabels({ ...both, 'failure.mode': 'hard' })).toThrow(invalid('mean the same'));
  });

  test('an option that was given is not changed by a label', () => {
    expect(optionOrLabel('--replicas', 0, 2, true)).toBe(2);
    expect(optionOrLabel('--replicas', 0, undefined, true)).toBe(0);
    expect(optionOrLabel('--failure-mode', 'hard', 'hard', false)).toBe('hard');
    expect(() => optionOrLabel('--replicas', 1, 2, false)).toThrow(invalid('--replicas says 1'));
  });

  test.each(['', ' ', 'Hard', '-1', '1e0', '0x1', '99'])('%j is no failure mode', (text) => {
    expect(() => parseFailureMode(text)).toThrow(invalid('hard, soft, alwayson'));
  });
});
