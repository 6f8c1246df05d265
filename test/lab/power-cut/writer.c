// The application of the power-cut tests: writes through a block device with O_DIRECT from several
// threads, and logs every step into a file that survives the machine, before and after it is taken.
// C, because a guest runs it at once, and because it must share nothing with what it tests.
//
//   writer write DEVICE LOG SEED ROUND THREADS EXTENT_BYTES CHUNK_BYTES FLUSH_PERCENT EXTENT...
//   writer dump DEVICE OUTPUT EXTENT_BYTES CHUNK_BYTES EXTENT_COUNT
//
// DEVICE is a block device, or a file whose chunks are allocated and written: on ext4 and xfs synchronous writes
// to that are FUA alone, without a flush. Of every extent only the first CHUNK_BYTES are used; each thread owns
// every THREADS-th slice of 16 blocks.
// Log lines, each one append: "W id sector count" (D: synchronous, Z: zeroes) before a write, "A id" after it was
// acknowledged; "F id" before and "G id" after a flush; "E id errno" when one failed. Sector contents: the table in
// journal.ts. `write` runs until it is killed.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define SECTOR 512
#define BLOCK 4096
#define SLICE_BLOCKS 16
#define MAGIC 0x50574355u

static int device, isDevice, logFile, threadCount, flushPercent, extentCount;
static uint64_t extentBytes, chunkBytes, round_, seed;
static uint64_t extents[4096];
static uint64_t nextId;
static uint32_t crcTable[256];

static void die(const char *what) {
  perror(what);
  exit(1);
}

static uint32_t crc32of(const uint8_t *bytes, size_t length) {
  uint32_t crc = ~0u;
  while (length--) crc = crcTable[(crc ^ *bytes++) & 255] ^ (crc >> 8);
  return ~crc;
}

static uint64_t random64(uint64_t *state) { // xorshift64*
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * 2685821657736338717ull;
}

static void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void note(const char *format, ...) {
  char line[96];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (write(logFile, line, length) != length) die("log");
}

static void fillSectors(uint8_t *buffer, uint64_t id, uint64_t sector, unsigned count) {
  for (unsigned i = 0; i < count; i++) {
    uint8_t *at = buffer + i * SECTOR;
    uint64_t where = sector + i, noise = id * 0x9e3779b97f4a7c15ull + where;
    uint32_t magic = MAGIC;
    for (unsigned j = 24; j < SECTOR; j += 8) {
      noise = noise * 6364136223846793005ull + 1442695040888963407ull;
      memcpy(at + j, &noise, 8);
    }
    memcpy(at, &magic, 4);
    memcpy(at + 8, &id, 8);
    memcpy(at + 16, &where, 8);
    uint32_t crc = crc32of(at + 8, SECTOR - 8);
    memcpy(at + 4, &crc, 4);
  }
}

_Noreturn static void *run(void *argument) {
  uint64_t thread = (uintptr_t)argument;
  uint64_t state = (seed + 1) * 0x9e3779b97f4a7c15ull ^ (thread + 1) * 0xbf58476d1ce4e5b9ull;
  uint64_t slices = chunkBytes / (SLICE_BLOCKS * BLOCK);
  uint8_t *buffer;
  if (posix_memalign((void **)&buffer, BLOCK, SLICE_BLOCKS * BLOCK)) die("memory");
  for (;;) {
    uint64_t id = round_ << 32 | __atomic_add_fetch(&nextId, 1, __ATOMIC_RELAXED);
    if (random64(&state) % 100 < (uint64_t)flushPercent) {
      note("F %lu\n", id);
      if (fdatasync(device)) note("E %lu %d\n", id, errno);
      else note("G %lu\n", id);
      continue;
    }
    uint64_t slice = random64(&state) % ((slices + threadCount - 1 - thread) / threadCount) * threadCount + thread;
    unsigned first = random64(&state) % SLICE_BLOCKS;
    unsigned blocks = 1 + random64(&state) % (SLICE_BLOCKS - first);
    if (random64(&state) % 2) blocks = 1;
    uint64_t offset = extents[random64(&state) % extentCount] * extentBytes + (slice * SLICE_BLOCKS + first) * BLOCK;
    size_t length = (size_t)blocks * BLOCK;
    unsigned kind = random64(&state) % 100;
    int failed;
    // On a raw device Linux flushes after a synchronous write: a round that is to be short of flushes has none.
    char letter = kind < 5 && isDevice ? 'Z' : kind < 15 && (flushPercent > 0 || !isDevice) ? 'D' : 'W';
    note("%c %lu %lu %lu\n", letter, id, offset / SECTOR, length / SECTOR);
    if (letter == 'Z') {
      uint64_t range[2] = {offset, length};
      failed = ioctl(device, kind < 3 ? BLKZEROOUT : BLKDISCARD, range);
    } else {
      fillSectors(buffer, id, offset / SECTOR, length / SECTOR);
      struct iovec vector = {buffer, length};
      failed = pwritev2(device, &vector, 1, offset, letter == 'D' ? RWF_DSYNC : 0) != (ssize_t)length;
    }
    if (failed) note("E %lu %d\n", id, errno);
    else note("A %lu\n", id);
  }
}

static void dump(const char *path, uint64_t count) {
  int output = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  uint8_t *buffer;
  if (output < 0) die(path);
  if (posix_memalign((void **)&buffer, BLOCK, chunkBytes)) die("memory");
  for (uint64_t extent = 0; extent < count; extent++) {
    if (pread(device, buffer, chunkBytes, extent * extentBytes) != (ssize_t)chunkBytes) die("read");
    if (write(output, buffer, chunkBytes) != (ssize_t)chunkBytes) die("write");
  }
}

int main(int count, char **words) {
  if (count < 7) return 2;
  device = open(words[2], O_RDWR | O_DIRECT);
  if (device < 0) die(words[2]);
  struct stat status;
  if (fstat(device, &status)) die(words[2]);
  isDevice = S_ISBLK(status.st_mode);
  if (!strcmp(words[1], "dump")) {
    extentBytes = strtoull(words[4], 0, 10);
    chunkBytes = strtoull(words[5], 0, 10);
    dump(words[3], strtoull(words[6], 0, 10));
    return 0;
  }
  if (count < 11) return 2;
  for (unsigned n = 0; n < 256; n++) {
    uint32_t value = n;
    for (int bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320u ^ value >> 1 : value >> 1;
    crcTable[n] = value;
  }
  logFile = open(words[3], O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (logFile < 0) die(words[3]);
  seed = strtoull(words[4], 0, 10);
  round_ = strtoull(words[5], 0, 10);
  threadCount = atoi(words[6]);
  extentBytes = strtoull(words[7], 0, 10);
  chunkBytes = strtoull(words[8], 0, 10);
  flushPercent = atoi(words[9]);
  for (int i = 10; i < count; i++) extents[extentCount++] = strtoull(words[i], 0, 10);
  pthread_t threads[64];
  for (int i = 0; i < threadCount; i++) pthread_create(&threads[i], 0, run, (void *)(uintptr_t)i);
  pthread_join(threads[0], 0);
}
