// A side in a process of its own, to be killed: prints its port when it listens.

import { Side } from './peers-support.ts';

const side = await Side.start();
console.log(await side.listen());
