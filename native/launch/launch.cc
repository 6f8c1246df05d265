// Executes a program as an I/O flusher: `launch PROGRAM [ARGUMENT...]`, with the same process id. The flag belongs to a
// thread and to those that it creates, so it is set before Node.js has any (src/cli/daemon/io-flusher.ts, which does without
// this program, at the cost of a second start of Node.js). Where the right is missing the program runs without it, and says so.

#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57  // Linux 5.6
#endif

int main(int argc, char** argv) {
  if (argc < 2) {
    fputs("usage: launch PROGRAM [ARGUMENT...]\n", stderr);
    return 2;
  }
  if (prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0) setenv("HOLDFAST_IS_IO_FLUSHER", "1", 1);
  execv(argv[1], argv + 1);
  perror(argv[1]);
  return 126;
}
