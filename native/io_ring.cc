#include "io_ring.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>

namespace holdfast {

namespace {

// Best first. Every kernel that lacks a flag answers EINVAL, and the next set is tried.
constexpr uint32_t kFlagSets[] = {
    IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,  // 6.1
    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,                                // 5.19
    IORING_SETUP_SUBMIT_ALL,                                                                                        // 5.18
    0,
};

constexpr uint32_t kNeededFeatures = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG;

// How long a wait may last before the thread looks whether its environment is being stopped: bounds how
// long worker.terminate() and process.exit() take while a thread waits here.
constexpr int64_t kSliceNs = 250'000'000;

constexpr int64_t kCancelSeconds = 5;

// After a look that found nothing this many waits sleep at once, doubled with every further failure: a client
// that waits for this very processor cannot answer while the thread looks.
constexpr uint32_t kMostWaitsWithoutLooking = 64;

int64_t nowNs() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1'000'000'000 + now.tv_nsec;
}

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");
#endif
}

int ioUringRegister(int fd, uint32_t opcode, const void* argument, uint32_t count) {
  return static_cast<int>(syscall(SYS_io_uring_register, fd, opcode, argument, count));
}

}  // namespace

Failure IoRing::setUp(uint32_t submissionCount, uint32_t completionCount) {
  for (const uint32_t flags : kFlagSets) {
    params_ = {};
    params_.flags = flags | IORING_SETUP_CQSIZE;
    params_.cq_entries = completionCount;
    fd_ = static_cast<int>(syscall(SYS_io_uring_setup, submissionCount, &params_));
    if (fd_ >= 0) break;
    if (errno != EINVAL) return Failure::last("io_uring_setup");
  }
  if (fd_ < 0) return Failure::last("io_uring_setup");
  if ((params_.features & kNeededFeatures) != kNeededFeatures) {
    return Failure{ENOSYS, "io_uring_setup", "this kernel's io_uring is too old: Linux 5.15 or newer is needed"};
  }
  return {};
}

Failure IoRing::map() {
  const int protection = PROT_READ | PROT_WRITE;
  const int flags = MAP_SHARED | MAP_POPULATE;
  memoryBytes_ = std::max(params_.sq_off.array + params_.sq_entries * sizeof(uint32_t),
                          params_.cq_off.cqes + params_.cq_entries * sizeof(io_uring_cqe));
  void* memory = mmap(nullptr, memoryBytes_, protection, flags, fd_, IORING_OFF_SQ_RING);
  if (memory == MAP_FAILED) return Failure::last("mmap");
  memory_ = static_cast<uint8_t*>(memory);

  entriesBytes_ = params_.sq_entries * sizeof(io_uring_sqe);
  void* entries = mmap(nullptr, entriesBytes_, protection, flags, fd_, IORING_OFF_SQES);
  if (entries == MAP_FAILED) return Failure::last("mmap");
  entries_ = static_cast<uint8_t*>(entries);

  // Child processes must not share the queues.
  madvise(memory_, memoryBytes_, MADV_DONTFORK);
  madvise(entries_, entriesBytes_, MADV_DONTFORK);
  for (uint32_t i = 0; i < params_.sq_entries; i++) word(params_.sq_off.array)[i] = i;
  return {};
}

Failure IoRing::open(uint32_t submissionCount, uint32_t completionCount) {
  Failure failure = setUp(submissionCount, completionCount);
  if (!failure) failure = map();
  if (failure) {
    close();
    return failure;
  }
  io_uring_rsrc_update update = {};
  update.offset = UINT32_MAX;
  update.data = static_cast<uint64_t>(fd_);
  // 5.18 and newer; enter saves the look-up of the descriptor.
  if (ioUringRegister(fd_, IORING_REGISTER_RING_FDS, &update, 1) == 1) {
    registeredIndex_ = static_cast<int>(update.offset);
  }
  return {};
}

Failure IoRing::probe(RingCapabilities* capabilities) {
  IoRing ring;
  Failure failure = ring.open(8, 16);
  if (failure) return failure;
  capabilities->features = ring.params_.features;
  capabilities->setupFlags = ring.params_.flags;
  constexpr uint32_t kOpcodeCount = 256;
  std::vector<uint64_t> storage((sizeof(io_uring_probe) + kOpcodeCount * sizeof(io_uring_probe_op)) / 8 + 1);
  auto* answer = reinterpret_cast<io_uring_probe*>(storage.data());
  if (ioUringRegister(ring.fd_, IORING_REGISTER_PROBE, answer, kOpcodeCount) < 0) {
    return Failure::last("io_uring_register");
  }
  capabilities->opcodes.assign(std::min<uint32_t>(answer->last_op + 1u, kOpcodeCount), 0);
  for (uint32_t i = 0; i < answer->ops_len && i < capabilities->opcodes.size(); i++) {
    capabilities->opcodes[i] = (answer->ops[i].flags & IO_URING_OP_SUPPORTED) != 0;
  }
  return {};
}

uint32_t IoRing::readyCount() const {
  const uint32_t tail = __atomic_load_n(word(params_.cq_off.tail), __ATOMIC_ACQUIRE);
  return tail - __atomic_load_n(word(params_.cq_off.head), __ATOMIC_RELAXED);
}

bool IoRing::kernelHasWork() const {
  const uint32_t flags = __atomic_load_n(word(params_.sq_off.flags), __ATOMIC_RELAXED);
  return (flags & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

/** One system call: submits, and waits for at most limitNs (-1: no limit). The count submitted, or -errno. */
int IoRing::call(uint32_t submitCount, uint32_t waitCount, int64_t limitNs) const {
  // GETEVENTS even when nothing is waited for: with DEFER_TASKRUN completions appear only in such a call.
  uint32_t flags = IORING_ENTER_GETEVENTS;
  if (registeredIndex_ >= 0) flags |= IORING_ENTER_REGISTERED_RING;
  const int target = registeredIndex_ >= 0 ? registeredIndex_ : fd_;
  if (limitNs < 0) {
    const long result = syscall(SYS_io_uring_enter, target, submitCount, waitCount, flags, nullptr, 0);
    return static_cast<int>(result < 0 ? -errno : result);
  }
  __kernel_timespec limit = {limitNs / 1'000'000'000, limitNs % 1'000'000'000};
  io_uring_getevents_arg argument = {};
  argument.ts = reinterpret_cast<uint64_t>(&limit);
  const long result = syscall(SYS_io_uring_enter, target, submitCount, waitCount, flags | IORING_ENTER_EXT_ARG,
                              &argument, sizeof(argument));
  return static_cast<int>(result < 0 ? -errno : result);
}

/** Watches the ring's memory until enough completions are there (true) or the time is over. */
bool IoRing::spin(uint32_t waitCount, int64_t endNs) const {
  constexpr uint32_t kTurnsPerClockRead = 16;
  for (uint32_t turn = 1;; turn++) {
    if (readyCount() >= waitCount) return true;
    if (kernelHasWork()) {
      call(0, 0, -1);
      if (readyCount() >= waitCount) return true;
    }
    relax();
    if (turn % kTurnsPerClockRead == 0 && nowNs() >= endNs) return false;
  }
}

int IoRing::enter(const EnterRequest& request, bool (*isStopping)(void*), void* context) {
  const uint32_t waitCount = request.waitCount;
  uint32_t toSubmit = request.submitCount;
  if (waitCount == 0) return call(toSubmit, 0, -1);
  if (toSubmit == 0 && readyCount() >= waitCount) return 0;

  const bool isTimed = request.timeoutMicros >= 0;
  const bool isLooking = request.spinMicros > 0 && waitsWithoutLooking_ == 0;
  // Read only where it is needed: in a virtual machine that may be a system call.
  const int64_t startNs = isTimed || isLooking ? nowNs() : 0;
  int submitted = 0;
  if (waitsWithoutLooking_ > 0) waitsWithoutLooking_--;
  if (isLooking) {
    if (toSubmit > 0) {
      submitted = call(toSubmit, 0, -1);
      if (submitted != static_cast<int>(toSubmit)) return submitted;
      toSubmit = 0;
    }
    const int64_t spinMicros = isTimed ? std::min(request.spinMicros, request.timeoutMicros) : request.spinMicros;
    if (spin(waitCount, startNs + spinMicros * 1000)) {
      waitsAfterFailure_ = 0;
      return submitted;
    }
    waitsAfterFailure_ = std::clamp<uint32_t>(waitsAfterFailure_ * 2, 1, kMostWaitsWithoutLooking);
    waitsWithoutLooking_ = waitsAfterFailure_;
  }

  for (;;) {
    int64_t limitNs = kSliceNs;
    if (isTimed) limitNs = std::clamp<int64_t>(startNs + request.timeoutMicros * 1000 - nowNs(), 0, kSliceNs);
    const int result = call(toSubmit, waitCount, limitNs);
    if (result < 0 && result != -ETIME) return submitted > 0 ? submitted : result;
    if (result > 0) submitted += result;
    // Fewer submitted than asked: the kernel stopped early and did not wait.
    if (readyCount() >= waitCount || (result >= 0 && result < static_cast<int>(toSubmit))) return submitted;
    toSubmit = 0;
    const bool isOver = isTimed && nowNs() >= startNs + request.timeoutMicros * 1000;
    if (isOver) return submitted > 0 ? submitted : -ETIME;
    if (isStopping(context)) return submitted > 0 ? submitted : -EINTR;
  }
}

Failure IoRing::registerFiles(uint32_t count) const {
  const std::vector<int32_t> slots(count, -1);
  if (ioUringRegister(fd_, IORING_REGISTER_FILES, slots.data(), count) < 0) return Failure::last("io_uring_register");
  return {};
}

Failure IoRing::updateFile(uint32_t slot, int fd) const {
  const int32_t descriptor = fd;
  io_uring_rsrc_update update = {};
  update.offset = slot;
  update.data = reinterpret_cast<uint64_t>(&descriptor);
  if (ioUringRegister(fd_, IORING_REGISTER_FILES_UPDATE, &update, 1) < 0) return Failure::last("io_uring_register");
  return {};
}

void IoRing::close() {
  if (fd_ >= 0) {
    // 6.0 and newer; elsewhere the kernel cancels by itself, later.
    io_uring_sync_cancel_reg cancel = {};
    cancel.fd = -1;
    cancel.flags = IORING_ASYNC_CANCEL_ANY | IORING_ASYNC_CANCEL_ALL;
    cancel.timeout.tv_sec = kCancelSeconds;
    ioUringRegister(fd_, IORING_REGISTER_SYNC_CANCEL, &cancel, 1);
  }
  if (registeredIndex_ >= 0) {
    io_uring_rsrc_update update = {};
    update.offset = static_cast<uint32_t>(registeredIndex_);
    ioUringRegister(fd_, IORING_UNREGISTER_RING_FDS, &update, 1);
  }
  if (entries_ != nullptr) munmap(entries_, entriesBytes_);
  if (memory_ != nullptr) munmap(memory_, memoryBytes_);
  if (fd_ >= 0) ::close(fd_);
  fd_ = registeredIndex_ = -1;
  memory_ = entries_ = nullptr;
}

}  // namespace holdfast
