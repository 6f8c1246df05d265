// Each scenario leads to what stands below its line; see scenario.ts for how to write one, and how to bring the
// lines up to date when the protocol changes.

import { describe, expect, test } from 'vitest';
import { playFile, scenarioFiles } from './scenario.ts';

describe('a scenario leads to what its file says', () => {
  for (const file of scenarioFiles())
    test(file.name, () => {
      expect(playFile(file)).toBe(file.expected);
      expect(file.expected).not.toContain('NOT REACHED');
    });
});
