// One io_uring by raw system calls: set-up with the best flags the kernel takes, mapping, enter, files,
// closing. Knows nothing of JavaScript. Needs IORING_FEAT_EXT_ARG and SINGLE_MMAP, so Linux 5.11 at least;
// tested from 5.15. The caller fills entries and reads completions itself, in the mapped memory.
#pragma once

#include <linux/io_uring.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "failure.h"

namespace holdfast {

constexpr uint32_t kMaxSubmissionCount = 32768;
constexpr uint32_t kMaxCompletionCount = 65536;

struct RingCapabilities {
  uint32_t features = 0;
  uint32_t setupFlags = 0;
  /** 1 at index n when opcode n is supported. */
  std::vector<uint8_t> opcodes;
};

struct EnterRequest {
  uint32_t submitCount;
  uint32_t waitCount;
  int64_t spinMicros;
  /** -1: no limit. */
  int64_t timeoutMicros;
};

class IoRing {
 public:
  IoRing() = default;
  IoRing(const IoRing&) = delete;
  IoRing& operator=(const IoRing&) = delete;
  ~IoRing() { close(); }

  /** What the kernel offers; the probe's ring is gone when this returns. */
  static Failure probe(RingCapabilities* capabilities);

  Failure open(uint32_t submissionCount, uint32_t completionCount);

  /**
   * Submits, then waits as native.ts describes. `isStopping` is asked a few times a second while the wait
   * lasts; once it says yes the call returns -EINTR. A signal that arrives during the one system call that
   * also submitted goes unnoticed, since the kernel reports the submissions instead.
   */
  int enter(const EnterRequest& request, bool (*isStopping)(void*), void* context);

  Failure registerFiles(uint32_t count) const;
  Failure updateFile(uint32_t slot, int fd) const;

  /** Cancels what can be cancelled, waits for it (bounded), unmaps, closes. Twice is no harm. */
  void close();

  int fd() const { return fd_; }
  const io_uring_params& params() const { return params_; }
  uint8_t* memory() const { return memory_; }
  size_t memoryBytes() const { return memoryBytes_; }
  uint8_t* entries() const { return entries_; }
  size_t entriesBytes() const { return entriesBytes_; }

 private:
  Failure setUp(uint32_t submissionCount, uint32_t completionCount);
  Failure map();
  int call(uint32_t submitCount, uint32_t waitCount, int64_t limitNs) const;
  bool spin(uint32_t waitCount, int64_t endNs) const;
  uint32_t readyCount() const;
  bool kernelHasWork() const;
  uint32_t* word(uint32_t offset) const { return reinterpret_cast<uint32_t*>(memory_ + offset); }

  int fd_ = -1;
  /** What enter passes instead of fd_: an index of the registered ring descriptors, or -1. */
  int registeredIndex_ = -1;
  io_uring_params params_ = {};
  /** Waits that will not spin, and how many there were after the last spin that failed. */
  uint32_t waitsWithoutLooking_ = 0;
  uint32_t waitsAfterFailure_ = 0;
  uint8_t* memory_ = nullptr;
  size_t memoryBytes_ = 0;
  uint8_t* entries_ = nullptr;
  size_t entriesBytes_ = 0;
};

}  // namespace holdfast
