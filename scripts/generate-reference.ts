// Writes docs/reference/config.md from the table of options.
//   --check   writes nothing; exits 1 when the page is not what would be written

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import {
  environmentName,
  OPTION_KEYS,
  OPTIONS,
  type Option,
  type OptionKey,
  optionName,
} from '../src/cli/config-options.ts';

const PAGE = new URL('../docs/reference/config.md', import.meta.url);

const HEAD = `# Configuration of the daemon

<!-- Written by scripts/generate-reference.ts; change src/cli/config-options.ts instead. -->

\`holdfast daemon\` takes each option as a flag, as an environment variable or as a key of a JSON file that
\`--config FILE\` (or HOLDFAST_CONFIG) names. A flag wins over the environment, the environment over the file,
the file over the default. Unknown flags and keys are errors that name the nearest known one; unknown
HOLDFAST_ variables are logged. Sizes take a unit (\`10GiB\`), times too (\`250ms\`, \`30s\`, \`5m\`, \`24h\`).
Nothing listens that is not asked for, except the API socket.

| flag and key | variable | default | range | meaning |
|---|---|---|---|---|
`;

const FOOT = `
An example file:

\`\`\`json
{
  "data-dir": "/var/lib/holdfast",
  "node-name": "node-a",
  "pool": ["default=/mnt/nvme0/holdfast,io=direct", "archive=/mnt/hdd/holdfast,io=buffered"],
  "metrics": "127.0.0.1:9810"
}
\`\`\`
`;

function row(key: OptionKey): string {
  const o: Option = OPTIONS[key];
  const fallback = o.defaultText ?? (typeof o.default === 'string' ? `\`${o.default}\`` : 'not set');
  const cell = (text: string): string => text.replaceAll('|', '\\|');
  const flag = `\`--${optionName(key)} ${o.argument}\`${o.isList ? ' (repeated)' : ''}`;
  return `| ${[flag, environmentName(key), fallback, o.range ?? '', o.text].map(cell).join(' | ')} |`;
}

const page = `${HEAD}${OPTION_KEYS.map(row).join('\n')}\n${FOOT}`;
if (process.argv.includes('--check')) {
  let present = '';
  try {
    present = readFileSync(PAGE, 'utf8');
  } catch {
    // A missing page is an outdated page.
  }
  if (present !== page) {
    console.error('docs/reference/config.md is not current; type: node scripts/generate-reference.ts');
    process.exitCode = 1;
  }
} else {
  mkdirSync(new URL('.', PAGE), { recursive: true });
  writeFileSync(PAGE, page);
}
