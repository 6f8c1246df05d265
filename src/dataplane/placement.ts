// Which data-plane threads serve which pool. A thread that waits in the kernel for one pool's disk serves nobody
// meanwhile, so pools share a thread only when there are fewer threads than pools.

/** Positions of the threads for the pool at `pool` in the configuration; never empty. */
export function threadsFor(pool: number, poolCount: number, threadCount: number): number[] {
  if (threadCount <= poolCount) return [pool % threadCount];
  const threads: number[] = [];
  for (let thread = pool; thread < threadCount; thread += poolCount) threads.push(thread);
  return threads;
}

/** Positions of the pools that the thread serves. */
export function poolsOf(thread: number, poolCount: number, threadCount: number): number[] {
  const pools = Array.from({ length: poolCount }, (_, pool) => pool);
  return pools.filter((pool) => threadsFor(pool, poolCount, threadCount).includes(thread));
}
