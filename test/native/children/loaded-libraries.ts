// Prints the files that are mapped into this process once the addon is loaded.

import { readFileSync } from 'node:fs';
import { native } from '../../../src/dataplane/native.ts';

native.bootTimeMs();
console.log(readFileSync('/proc/self/maps', 'utf8').match(/\/\S+/g)?.join('\n'));
