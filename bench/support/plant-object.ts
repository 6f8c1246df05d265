// Loaded into the daemon before its own code: makes one short-lived object a request, as careless code
// would. Proves that bench/gc.ts sees what it looks for.

import { RequestTable } from '../../src/replication/requests.ts';

// Kept for a while, so that the engine cannot leave the objects out.
const recent: object[] = [];
const KEPT = 1024;
let count = 0;

const take = RequestTable.prototype.take;
RequestTable.prototype.take = function takeAndAllocate(this: RequestTable): number {
  const request = take.call(this);
  count = (count + 1) % KEPT;
  recent[count] = { request };
  return request;
};
