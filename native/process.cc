// Properties of the process: how the kernel treats its memory, and its clock.
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <ctime>

#include "exports.h"
#include "js.h"
#include "locked_memory.h"

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif

namespace holdfast {

namespace {

Napi::Value setIoFlusher(const Napi::CallbackInfo& info) {
  Reader reader(info);
  const bool on = reader.boolean(0, "on");
  if (!reader.ok()) return {};
  if (prctl(PR_SET_IO_FLUSHER, on ? 1L : 0L, 0L, 0L, 0L) != 0) {
    return throwFailure(info.Env(), Failure::last("prctl"));
  }
  return info.Env().Undefined();
}

/**
 * Pins, as it is touched, the memory of every file that is mapped now: the code of Node.js, of libraries and of
 * this addon. Not mlockall: V8 gives pages of its heap back with madvise, which the kernel refuses for locked
 * ones, and V8 then aborts.
 */
Napi::Value lockMemory(const Napi::CallbackInfo& info) {
  FILE* maps = fopen("/proc/self/maps", "re");
  if (maps == nullptr) return throwFailure(info.Env(), Failure::last("fopen"));
  Failure failure;
  char line[4096 + 256];
  while (!failure && fgets(line, sizeof line, maps) != nullptr) {
    uintptr_t begin = 0;
    uintptr_t end = 0;
    char permissions[5] = {};
    int pathAt = 0;
    const int fields = sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s %*s %*s %*s %n", &begin, &end, permissions, &pathAt);
    if (fields != 3 || line[pathAt] != '/' || permissions[0] != 'r') continue;
    if (mlock2(reinterpret_cast<void*>(begin), end - begin, MLOCK_ONFAULT) != 0) failure = Failure::last("mlock2");
  }
  fclose(maps);
  if (failure) return throwFailure(info.Env(), failure);
  lockMappings();
  return info.Env().Undefined();
}

Napi::Value bootTimeMs(const Napi::CallbackInfo& info) {
  timespec now = {};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return Napi::Number::New(info.Env(), static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6);
}

/** No handler runs and no thread is waited for: one that is stuck in a call would be waited for, for ever. */
Napi::Value exitAtOnce(const Napi::CallbackInfo& info) {
  Reader reader(info);
  const auto exitCode = static_cast<int>(reader.integer(0, "exitCode", 0, 255));
  if (!reader.ok()) return {};
  _exit(exitCode);
}

}  // namespace

void exportProcess(Napi::Env env, Napi::Object exports) {
  exports.Set("setIoFlusher", Napi::Function::New<setIoFlusher>(env, "setIoFlusher"));
  exports.Set("lockMemory", Napi::Function::New<lockMemory>(env, "lockMemory"));
  exports.Set("exitAtOnce", Napi::Function::New<exitAtOnce>(env, "exitAtOnce"));
  exports.Set("bootTimeMs", Napi::Function::New<bootTimeMs>(env, "bootTimeMs"));
}

}  // namespace holdfast
