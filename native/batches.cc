// Calls of the hot path beside the ring: many small operations in one call, nothing allocated.
#include <node_api.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdint>

#include "exports.h"

namespace holdfast {

namespace {

constexpr size_t kWordsPerWrite = 4;

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

napi_value writeBatch(napi_env env, napi_callback_info info) {
  napi_value arguments[3];
  size_t argumentCount = 3;
  napi_get_cb_info(env, info, &argumentCount, arguments, nullptr, nullptr);
  TypedArray memory;
  TypedArray entries;
  double count = -1;
  if (argumentCount != 3 || !readTypedArray(env, arguments[0], &memory) || memory.type != napi_uint8_array ||
      !readTypedArray(env, arguments[1], &entries) || entries.type != napi_float64_array ||
      napi_get_value_double(env, arguments[2], &count) != napi_ok) {
    napi_throw_type_error(env, nullptr, "writeBatch takes a Uint8Array, a Float64Array and a number");
    return nullptr;
  }
  if (!isWhole(count, static_cast<double>(entries.length / kWordsPerWrite))) {
    napi_throw_range_error(env, nullptr, "writeBatch: the entries must hold four numbers for each of count writes");
    return nullptr;
  }
  auto* words = static_cast<double*>(entries.data);
  const auto* bytes = static_cast<const uint8_t*>(memory.data);
  const auto writes = static_cast<size_t>(count);
  for (size_t i = 0; i < writes; i++) {
    const double* entry = words + i * kWordsPerWrite;
    const auto memoryBytes = static_cast<double>(memory.length);
    if (!isWhole(entry[0], INT32_MAX) || !isWhole(entry[1], memoryBytes) ||
        !isWhole(entry[2], memoryBytes - entry[1]) || !isWhole(entry[3], 9007199254740991.0)) {
      napi_throw_range_error(env, nullptr, "writeBatch: a write is (fd, offset and length inside the memory, file offset)");
      return nullptr;
    }
  }
  const long sleepsBefore = sleepCount();
  const int64_t startNanos = monotonicNanos();
  for (size_t i = 0; i < writes; i++) {
    double* entry = words + i * kWordsPerWrite;
    entry[0] = writeOnce(static_cast<int>(entry[0]), bytes + static_cast<size_t>(entry[1]),
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
  napi_value writes = nullptr;
  napi_create_function(env, "writeBatch", NAPI_AUTO_LENGTH, writeBatch, nullptr, &writes);
  exports.Set("writeBatch", writes);
  napi_value clock = nullptr;
  napi_create_function(env, "readClock", NAPI_AUTO_LENGTH, readClock, nullptr, &clock);
  exports.Set("readClock", clock);
}

}  // namespace holdfast
