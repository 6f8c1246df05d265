// `npm run bench`: the measurements, one after the other. `npm run bench -- nbd --quick` runs one of them,
// with its own options; `--quick` alone runs all of them short.

import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const directory = fileURLToPath(new URL('../bench', import.meta.url));
const all = readdirSync(directory)
  .filter((name) => name.endsWith('.ts'))
  .map((name) => basename(name, '.ts'))
  .sort();
const [first, ...rest] = process.argv.slice(2);
const isNamed = first !== undefined && !first.startsWith('-');
if (isNamed && !all.includes(first)) {
  console.error(`there is no benchmark '${first}': use one of ${all.join(', ')}`);
  process.exit(2);
}
let failures = 0;
for (const name of isNamed ? [first] : all) {
  console.log(`=== ${name}`);
  const options = isNamed ? rest : process.argv.slice(2);
  const { status } = spawnSync(process.execPath, [join(directory, `${name}.ts`), ...options], {
    stdio: 'inherit',
  });
  if (status !== 0) failures += 1;
}
process.exitCode = failures === 0 ? 0 : 1;
