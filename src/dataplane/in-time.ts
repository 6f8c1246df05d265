// Waiting for something that may never come. What is waited for goes on by itself.

/** Rejects with what `late` makes when the time is over first. */
export async function inTime<Result>(
  work: Promise<Result>,
  deadlineMs: number,
  late: () => Error,
): Promise<Result> {
  let timer: NodeJS.Timeout | undefined;
  const deadline = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(late()), deadlineMs);
  });
  try {
    return await Promise.race([work, deadline]);
  } finally {
    clearTimeout(timer);
  }
}
