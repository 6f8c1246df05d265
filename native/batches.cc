// Calls of the hot path beside the ring: many small operations in one call, nothing allocated.
#include <node_api.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdint>
#include <utility>

#include "environment.h"
#include "exports.h"

namespace holdfast {

namespace {

constexpr size_t kNumbersPerTransfer = 4;
constexpr size_t kNumbersPerSend = 2;
constexpr size_t kNumbersPerMappedSend = 6;

struct TypedArray {
  napi_typedarray_type type = napi_int8_array;
  size_t length = 0;
  void* data = nullptr;
};

bool readTypedArray(napi_env env, napi_value value, TypedArray* array) {
  bool isTypedArray = false;
  if (napi_is_typedarray(env, value, &isTypedArray) != napi_ok || !isTypedArray) return false;
  return napi_get_typedarray_info(env, value, &array->type, &array->length, &array->data, nullptr, nullptr) == napi_ok;
}

bool isWhole(double value, double limit) { return value >= 0 && value <= limit && value == std::floor(value); }

int64_t monotonicNanos() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1'000'000'000 + now.tv_nsec;
}

/** How often this thread has gone to sleep by itself: waiting for the processor does not count. */
long sleepCount() {
  rusage usage = {};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nvcsw;
}

/** What pwrite answers: a short write is the caller's to continue. */
double writeOnce(int fd, const uint8_t* bytes, size_t length, off_t offset) {
  ssize_t written = 0;
  do {
    written = pwrite(fd, bytes, length, offset);
  } while (written < 0 && errno == EINTR);
  return written < 0 ? -errno : static_cast<double>(written);
}

/** What the page cache has of it now: short, or -EAGAIN, where the disk would have to be asked. */
double readOnce(int fd, uint8_t* bytes, size_t length, off_t offset) {
  const iovec target = {bytes, length};
  ssize_t taken = 0;
  do {
    taken = preadv2(fd, &target, 1, offset, RWF_NOWAIT);
  } while (taken < 0 && errno == EINTR);
  // A file system that cannot tell what it has says EOPNOTSUPP.
  if (taken < 0) return errno == EOPNOTSUPP ? -EAGAIN : -errno;
  return static_cast<double>(taken);
}

double sendOnce(int fd, const msghdr* message) {
  ssize_t sent = 0;
  do {
    sent = sendmsg(fd, message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  return sent < 0 ? -errno : static_cast<double>(sent);
}

/** The arguments of a batch: a Uint8Array, and `count` groups of numbers in a Float64Array. */
struct Batch {
  uint8_t* bytes = nullptr;
  double memoryBytes = 0;
  double* entries = nullptr;
  size_t count = 0;
};

/** Throws and answers false when the call is not of that form. */
bool readBatchArguments(napi_env env, napi_callback_info info, size_t numbersPerEntry, Batch* batch) {
  napi_value arguments[3];
  size_t argumentCount = 3;
  napi_get_cb_info(env, info, &argumentCount, arguments, nullptr, nullptr);
  TypedArray memory;
  TypedArray entries;
  double count = -1;
  if (argumentCount != 3 || !readTypedArray(env, arguments[0], &memory) || memory.type != napi_uint8_array ||
      !readTypedArray(env, arguments[1], &entries) || entries.type != napi_float64_array ||
      napi_get_value_double(env, arguments[2], &count) != napi_ok) {
    napi_throw_type_error(env, nullptr, "a batch is a Uint8Array, a Float64Array and a number");
    return false;
  }
  if (!isWhole(count, static_cast<double>(entries.length / numbersPerEntry))) {
    napi_throw_range_error(env, nullptr, "the entries of a batch must hold all numbers of each of count operations");
    return false;
  }
  *batch = {static_cast<uint8_t*>(memory.data), static_cast<double>(memory.length),
            static_cast<double*>(entries.data), static_cast<size_t>(count)};
  return true;
}

/** A batch of (fd, offset and length inside the memory, file offset), each of them checked. */
bool readTransfers(napi_env env, napi_callback_info info, Batch* batch) {
  if (!readBatchArguments(env, info, kNumbersPerTransfer, batch)) return false;
  for (size_t i = 0; i < batch->count; i++) {
    const double* entry = batch->entries + i * kNumbersPerTransfer;
    if (!isWhole(entry[0], INT32_MAX) || !isWhole(entry[1], batch->memoryBytes) ||
        !isWhole(entry[2], batch->memoryBytes - entry[1]) || !isWhole(entry[3], 9007199254740991.0)) {
      napi_throw_range_error(env, nullptr, "a transfer is (fd, offset and length inside the memory, file offset)");
      return false;
    }
  }
  return true;
}

napi_value readBatch(napi_env env, napi_callback_info info) {
  Batch batch;
  if (!readTransfers(env, info, &batch)) return nullptr;
  for (size_t i = 0; i < batch.count; i++) {
    double* entry = batch.entries + i * kNumbersPerTransfer;
    entry[0] = readOnce(static_cast<int>(entry[0]), batch.bytes + static_cast<size_t>(entry[1]),
                        static_cast<size_t>(entry[2]), static_cast<off_t>(entry[3]));
  }
  return nullptr;
}

napi_value sendBatch(napi_env env, napi_callback_info info) {
  Batch batch;
  if (!readBatchArguments(env, info, kNumbersPerSend, &batch)) return nullptr;
  for (size_t i = 0; i < batch.count; i++) {
    const double* entry = batch.entries + i * kNumbersPerSend;
    if (!isWhole(entry[0], INT32_MAX) || !isWhole(entry[1], batch.memoryBytes - sizeof(msghdr)) ||
        std::fmod(entry[1], alignof(msghdr)) != 0) {
      napi_throw_range_error(env, nullptr, "a send is (fd, offset of a struct msghdr inside the memory)");
      return nullptr;
    }
  }
  for (size_t i = 0; i < batch.count; i++) {
    double* entry = batch.entries + i * kNumbersPerSend;
    entry[0] = sendOnce(static_cast<int>(entry[0]),
                        reinterpret_cast<const msghdr*>(batch.bytes + static_cast<size_t>(entry[1])));
  }
  return nullptr;
}

napi_value throwBadMappedSend(napi_env env) {
  napi_throw_range_error(env, nullptr,
                         "a mapped send is (fd, offset and length inside the memory, window, offset and length in it)");
  return nullptr;
}

/** Nothing is sent (-EAGAIN) unless the page cache holds all of it. */
double sendMappedOnce(const Batch& batch, const FileWindows& windows, const double* entry) {
  const auto length = static_cast<size_t>(entry[5]);
  const uint8_t* bytes = windows.cached(static_cast<size_t>(entry[3]), static_cast<size_t>(entry[4]), length);
  if (bytes == nullptr) return 0;
  iovec parts[2] = {{batch.bytes + static_cast<size_t>(entry[1]), static_cast<size_t>(entry[2])},
                    {const_cast<uint8_t*>(bytes), length}};
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  return sendOnce(static_cast<int>(entry[0]), &message);
}

napi_value sendMapped(napi_env env, napi_callback_info info) {
  Batch batch;
  if (!readBatchArguments(env, info, kNumbersPerMappedSend, &batch)) return nullptr;
  const FileWindows& windows = Environment::of(env).windows();
  for (size_t i = 0; i < batch.count; i++) {
    const double* entry = batch.entries + i * kNumbersPerMappedSend;
    if (!isWhole(entry[0], INT32_MAX) || !isWhole(entry[1], batch.memoryBytes) ||
        !isWhole(entry[2], batch.memoryBytes - entry[1]) || !isWhole(entry[3], FileWindows::kCount - 1)) {
      return throwBadMappedSend(env);
    }
    const auto windowBytes = static_cast<double>(windows.byteCount(static_cast<size_t>(entry[3])));
    if (!isWhole(entry[4], windowBytes) || !isWhole(entry[5], windowBytes - entry[4])) return throwBadMappedSend(env);
  }
  for (size_t i = 0; i < batch.count; i++) {
    double* entry = batch.entries + i * kNumbersPerMappedSend;
    if (entry[0] == -EAGAIN) continue;
    const double fd = entry[0];
    entry[0] = sendMappedOnce(batch, windows, entry);
    if (entry[0] <= 0 || entry[0] == entry[2] + entry[5]) continue;
    // What came behind a message that left in part would land in its middle.
    for (size_t later = i + 1; later < batch.count; later++) {
      double* behind = batch.entries + later * kNumbersPerMappedSend;
      if (behind[0] == fd) behind[0] = -EAGAIN;
    }
  }
  return nullptr;
}

napi_value writeBatch(napi_env env, napi_callback_info info) {
  Batch batch;
  if (!readTransfers(env, info, &batch)) return nullptr;
  const long sleepsBefore = sleepCount();
  const int64_t startNanos = monotonicNanos();
  for (size_t i = 0; i < batch.count; i++) {
    double* entry = batch.entries + i * kNumbersPerTransfer;
    entry[0] = writeOnce(static_cast<int>(entry[0]), batch.bytes + static_cast<size_t>(entry[1]),
                         static_cast<size_t>(entry[2]), static_cast<off_t>(entry[3]));
  }
  napi_value result = nullptr;
  const int64_t micros = sleepCount() == sleepsBefore ? 0 : (monotonicNanos() - startNanos) / 1000;
  napi_create_int32(env, static_cast<int32_t>(micros < INT32_MAX ? micros : INT32_MAX), &result);
  return result;
}

napi_value readClock(napi_env env, napi_callback_info info) {
  napi_value argument;
  size_t argumentCount = 1;
  napi_get_cb_info(env, info, &argumentCount, &argument, nullptr, nullptr);
  TypedArray target;
  if (argumentCount != 1 || !readTypedArray(env, argument, &target) || target.type != napi_float64_array ||
      target.length < 1) {
    napi_throw_type_error(env, nullptr, "readClock takes a Float64Array with room for one number");
    return nullptr;
  }
  timespec now = {};
  clock_gettime(CLOCK_BOOTTIME, &now);
  *static_cast<double*>(target.data) = static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
  return nullptr;
}

}  // namespace

void exportBatches(Napi::Env env, Napi::Object exports) {
  const std::pair<const char*, napi_callback> functions[] = {
      {"readBatch", readBatch}, {"sendBatch", sendBatch}, {"sendMapped", sendMapped}, {"writeBatch", writeBatch}, {"readClock", readClock}};
  for (const auto& [name, function] : functions) {
    napi_value value = nullptr;
    napi_create_function(env, name, NAPI_AUTO_LENGTH, function, nullptr, &value);
    exports.Set(name, value);
  }
}

}  // namespace holdfast
