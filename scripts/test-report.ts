// What vitest's JSON report counts: tests that did not run, files that did not load, and files that failed beside their tests
// (in a hook of the file, say) count as failed, each named with the beginning of its message.

import { relative } from 'node:path';
import { z } from 'zod';

export interface Totals {
  passed: number;
  failed: number;
  /** What failed, each with where it stands and the beginning of its message. */
  readonly failures: string[];
}

/** Of a failure's message, as much as is told again at the end. */
const MESSAGE_CHARACTERS = 2000;

const vitestReportSchema = z.object({
  numPassedTests: z.number(),
  numTotalTests: z.number(),
  testResults: z.array(
    z.object({
      name: z.string(),
      status: z.string(),
      message: z.string(),
      assertionResults: z.array(
        z.object({
          fullName: z.string(),
          status: z.string(),
          failureMessages: z.array(z.string().nullable()),
        }),
      ),
    }),
  ),
});

/** Files are named as they stand below `root`. */
export function countReport(text: string, root: string): Totals {
  const report = vitestReportSchema.parse(JSON.parse(text));
  const failures: string[] = [];
  let failedFiles = 0;
  for (const { name, status, message, assertionResults } of report.testResults) {
    const file = relative(root, name);
    if (status === 'failed' && !assertionResults.some((test) => test.status === 'failed')) {
      failedFiles += 1;
      const what = assertionResults.length === 0 ? 'not loaded' : 'failed beside its tests';
      failures.push(`${file}: ${what}: ${message.slice(0, MESSAGE_CHARACTERS)}`);
    }
    for (const test of assertionResults.filter((each) => each.status !== 'passed')) {
      const what = test.failureMessages.join('\n').slice(0, MESSAGE_CHARACTERS) || test.status;
      failures.push(`${file} > ${test.fullName}: ${what}`);
    }
  }
  const failed = report.numTotalTests - report.numPassedTests + failedFiles;
  return { passed: report.numPassedTests, failed, failures };
}
